"""Trained models: load them, embed stored or new items with them, import published checkpoints.

The sub-package does not know how a model is trained.
"""

from tern.model.authors_file import check_checkpoint_file
from tern.model.convert import (
    FeatureSource,
    import_checkpoint,
    load_bert_weights,
    load_checkpoint_model,
    load_paper_checkpoint,
)
from tern.model.embed import caption_field, embed_captions, embed_images, embed_new_captions, embed_new_images
from tern.model.folder import WEIGHTS as MODEL_WEIGHTS
from tern.model.folder import load_model
from tern.model.package import import_package, save_package_weights
from tern.model.query_export import CaptionNetwork, TextModel, embed_token_ids, export_query_side

__all__ = [
    "MODEL_WEIGHTS",
    "CaptionNetwork",
    "FeatureSource",
    "TextModel",
    "caption_field",
    "check_checkpoint_file",
    "embed_captions",
    "embed_images",
    "embed_new_captions",
    "embed_new_images",
    "embed_token_ids",
    "export_query_side",
    "import_checkpoint",
    "import_package",
    "load_bert_weights",
    "load_checkpoint_model",
    "load_model",
    "load_paper_checkpoint",
    "save_package_weights",
]
