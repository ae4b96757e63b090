"""Training in several processes: the process group of torchrun, gathered vectors and gradients, torchrun as a child.

The sub-package does not know what is trained.
"""

from tern.parallel.device import resolve_device
from tern.parallel.group import is_main_process, is_torchrun, main_process_first, process_group
from tern.parallel.threads import torch_threads
from tern.parallel.torchrun import run_torchrun

__all__ = [
    "is_main_process",
    "is_torchrun",
    "main_process_first",
    "process_group",
    "resolve_device",
    "run_torchrun",
    "torch_threads",
]
