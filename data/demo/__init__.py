"""Demo dataset: a random seed in, images, boxes and captions out; independent of stores or models."""

from data.demo.absent import ABSENT_QUERIES
from data.demo.facts import count_objects, find_word_classes, iter_nouns, list_word_classes
from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from data.demo.scenes.kinds import CLASSES, KINDS, PLACES
from data.demo.write import ANNOTATIONS, CAPTIONS_PER_SCENE, generate_demo_dataset, is_generated

__all__ = [
    "ABSENT_QUERIES",
    "ANNOTATIONS",
    "CAPTIONS_PER_SCENE",
    "CLASSES",
    "KINDS",
    "PLACES",
    "compose_scene",
    "count_objects",
    "find_word_classes",
    "generate_demo_dataset",
    "is_generated",
    "iter_nouns",
    "list_word_classes",
    "render_scene",
]
