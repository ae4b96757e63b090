"""Killed updates of `tests`."""

from index.config import GateConfig
from index.quality.checks import HeldOutQueries
from index.quality.gate import make_gate
from tests.helpers.index_updates import CONFIG, World


def judge(world: World):
    """The gate of an update or a compaction of `world`, as the command line gives it."""
    source = world.collections()
    return make_gate(
        GateConfig(max_sampled_rows=20), {kind: HeldOutQueries(world.queries[kind]) for kind in source}, source, CONFIG
    )


def state(number: int) -> World:
    """What shall be answered at a step of a history in which things change, go, come and come back."""
    world = World()
    world.change("caption", f"{number:04d}.jpg#0", f"{number:04d}.jpg#1")
    world.remove("image", f"{number + 1:04d}.jpg")
    world.add("image", f"{number + 2:04d}.jpg")
    return world
