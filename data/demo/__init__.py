"""The embedded dataset: scenes drawn from a seed, their boxes, and five sentences about each."""

from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from data.demo.scenes.kinds import CLASSES, KINDS, PLACES
from data.demo.write import generate_demo_dataset, is_generated

__all__ = [
    "CLASSES",
    "KINDS",
    "PLACES",
    "compose_scene",
    "generate_demo_dataset",
    "is_generated",
    "render_scene",
]
