"""The embedded data set: scenes drawn from a seed, their boxes, and five sentences about each."""

from data.demo.captions import captions
from data.demo.geometry import Scene, Thing
from data.demo.kinds import CLASSES, PLACES, THINGS
from data.demo.layout import compose
from data.demo.paint import paint
from data.demo.write import DemoConfig, drawn, generate

__all__ = [
    "CLASSES", "PLACES", "THINGS", "DemoConfig", "Scene", "Thing", "captions", "compose", "drawn", "generate", "paint",
]  # fmt: skip
