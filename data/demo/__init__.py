"""The embedded data set: scenes drawn from a seed, their boxes, and five sentences about each."""

from data.demo.captions import generate_captions
from data.demo.geometry import Scene, Thing
from data.demo.kinds import CLASSES, PLACES, THINGS
from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from data.demo.write import DemoConfig, generate_demo_dataset, is_generated

__all__ = [
    "CLASSES",
    "PLACES",
    "THINGS",
    "DemoConfig",
    "Scene",
    "Thing",
    "compose_scene",
    "generate_captions",
    "generate_demo_dataset",
    "is_generated",
    "render_scene",
]  # fmt: skip
