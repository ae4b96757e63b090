"""Write model packages: of a model of a workspace, or of a published checkpoint. A workspace is only read."""

from pipeline.runs.export.content import ExportOptions
from pipeline.runs.export.model import export_checkpoint, export_model

__all__ = ["ExportOptions", "export_checkpoint", "export_model"]
