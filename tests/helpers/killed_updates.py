"""A history of updates and its gate, for the tests that kill updates and compactions."""

from index.building.publish import GateFn
from index.config import GateConfig
from index.quality.checks import GateQueries
from index.quality.gate import make_gate
from tests.helpers.index_updates import CONFIG, World

IMAGES = 80  # so that a lookup of the compaction is larger than one of the update


def make_world_gate(world: World) -> GateFn:
    """Make the gate of an update or a compaction, as the command line does."""
    source = world.collections()
    queries = {kind: GateQueries(world.queries[kind]) for kind in source}
    return make_gate(GateConfig(max_sampled_rows=20), queries, source, CONFIG)


def make_state(number: int) -> World:
    """Return what the index should return at a step of a history with changed, removed, new and restored items."""
    world = World(images=IMAGES)
    world.change("caption", f"{number:04d}.jpg#0", f"{number:04d}.jpg#1")
    world.remove("image", f"{number + 1:04d}.jpg")
    world.add("image", f"{number + 2:04d}.jpg")
    return world
