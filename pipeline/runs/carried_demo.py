"""A second demo dataset: indexed without its captions by the model of the first one, which they then judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data.config import DatasetConfig, DemoConfig
from data.demo import ANNOTATIONS, generate_demo_dataset
from pipeline.plans import Plan
from pipeline.runs.existing import read_vectors
from pipeline.runs.export import ExportOptions, export_model
from pipeline.runs.runner import Finished, PipelineRunner
from pipeline.stages.dataset import HELD_OUT
from pipeline.stages.evaluate import find_metrics_file
from pipeline.stages.index import find_served_version
from pipeline.stages.results import Vectors
from pipeline.workers import DRAW_SCENES, MakeMapFn, use_builtin_map
from pipeline.workspace import Workspace
from tern.card import ModelPackage, is_package, read_model_card, read_package
from tern.config import TrainConfig
from tern.evaluation import SplitEvaluation, read_evaluation

SPLIT: Final = "test"


@dataclass(frozen=True)
class CarriedEvaluation:
    """What the model of the demo reaches on its held-out split, and on images that it met without captions."""

    held_out: SplitEvaluation
    """Evaluation of the split `test` of the demo."""
    carried: SplitEvaluation
    """Evaluation of the second dataset, which has as many images."""
    index: Path
    """Manifest of the published version, which has images alone."""

    @property
    def rows(self) -> dict[str, SplitEvaluation]:
        """Evaluations by the label of a table."""
        return {f"demo, {SPLIT}": self.held_out, "second dataset": self.carried}


def configure_second_dataset(plan: Plan) -> DemoConfig | None:
    """Return the scenes of the second dataset of a plan: as many as in its split `test`, of the next seed.

    Recalls of galleries of different sizes cannot be compared, so both have equally many images.

    Returns:
        The settings; None if the plan has no demo, no split `test`, or no extractor that extracts other images.
    """
    num_images = plan.demo.splits.get(SPLIT, 0) if plan.demo else 0
    if plan.demo is None or not num_images or plan.regions_store or plan.regions_file:
        return None
    return DemoConfig(seed=(plan.demo.seed + 1) % 2**31, images=num_images, splits={SPLIT: num_images})


def find_second_workspace(plan: Plan) -> Workspace:
    """Return the workspace of the second dataset of a plan, which need not exist."""
    root = plan.workspace if plan.workspace.name not in ("", "..") else plan.workspace.resolve()
    return Workspace(root.with_name(f"{root.name}-carried"))


def evaluate_second_dataset(
    finished: Finished, config: DemoConfig, make_map_fn: MakeMapFn = use_builtin_map
) -> CarriedEvaluation:
    """Index a second dataset without captions, with the model of a finished run, and then judge it with them.

    The model travels as a package, as to any other folder of images. The captions are in a file that the plan of the
    index does not name; they are read afterwards, in a workspace of their own, where nothing is published. What is
    finished is not repeated.

    Args:
        finished: Results of the demo.
        config: Scenes to draw; see `configure_second_dataset`.
        make_map_fn: Returns the `map` function for the jobs of a stage, given the name of the stage.

    Raises:
        ValueError: The workspace of the second dataset is that of something else.
        RejectedError: The index did not pass the gate.
    """
    package = _export_package(finished)
    plan = _make_plan(finished.plan, package)
    workspace = Workspace(plan.workspace)
    workspace.claim(plan.dataset_name)
    generate_demo_dataset(config, workspace.dataset, make_map_fn(DRAW_SCENES))
    runner = PipelineRunner(plan, make_map_fn)
    vectors = _embed(runner)
    index = runner.publish_index(vectors)
    judge = PipelineRunner(_make_judging_plan(plan, vectors.features.regions), make_map_fn)
    judged = judge.evaluate(_embed(judge)).splits[SPLIT]
    return CarriedEvaluation(finished.evaluation.splits[SPLIT], judged, index)


def read_second_evaluation(finished: Finished) -> CarriedEvaluation | None:
    """Read what `evaluate_second_dataset` found for the model of a run. Writes nothing.

    Returns:
        The evaluation; None if the plan has no second dataset, or if its outputs are missing or of another model.
    """
    config, folder = configure_second_dataset(finished.plan), finished.workspace.package.absolute()
    if config is None or not is_package(folder):
        return None
    try:
        package = read_package(folder)
        plan = _make_plan(finished.plan, package)
        workspace = Workspace(plan.workspace)
        index, model = find_served_version(workspace)
        card = read_model_card(model)
        is_same_package = package.name_model(card.region_recipe, card.token_recipe) == model.name
        if not is_same_package or package.config.origin.model != finished.model.name:
            return None
        plan = _make_judging_plan(plan, workspace.stores / f"regions-{card.region_recipe}")
        vectors = read_vectors(plan, model.name)
        inputs = vectors, vectors.features.dataset, Workspace(plan.workspace), HELD_OUT, plan.evaluate
        judged = read_evaluation(find_metrics_file(*inputs)).splits.get(SPLIT)
    except (ValueError, FileNotFoundError):
        return None
    if judged is None or judged.images != config.images or SPLIT not in finished.evaluation.splits:
        return None
    return CarriedEvaluation(finished.evaluation.splits[SPLIT], judged, index)


def _export_package(finished: Finished) -> ModelPackage:
    """Export the model, unless its package is there; a package of another model is replaced."""
    folder = finished.workspace.package.absolute()
    if is_package(folder):
        try:
            if (package := read_package(folder)).config.origin.model == finished.model.name:
                return package
        except (ValueError, FileNotFoundError):  # damaged, or of another version: it is exported again
            pass
    return export_model(finished.plan, folder, ExportOptions(force=True), finished.model.name, lambda _: None)


def _embed(runner: PipelineRunner) -> Vectors:
    features = runner.extract(runner.load_dataset())
    return runner.embed(features, runner.train(features))


def _make_plan(plan: Plan, package: ModelPackage) -> Plan:
    """Return the plan of the second dataset: its images alone, with the extractors of the demo."""
    workspace = find_second_workspace(plan)
    dataset = DatasetConfig(name="demo-carried", images=workspace.dataset / "images")
    return plan.model_copy(
        update={
            "workspace": workspace.root,
            "demo": None,
            "dataset": dataset,
            "model": str(package.folder),
            "checkpoint": None,
            "train": TrainConfig(),
        }
    )


def _make_judging_plan(plan: Plan, regions: Path) -> Plan:
    """Return a plan with the captions, in a workspace in which the index is not."""
    assert plan.dataset is not None, "`_make_plan` sets it"
    folder = plan.dataset.images.parent
    dataset = DatasetConfig(
        name=plan.dataset.name, format="karpathy", annotations=folder / ANNOTATIONS, images=plan.dataset.images
    )
    return plan.model_copy(
        update={
            "workspace": plan.workspace / "judged",
            "dataset": dataset,
            "regions_store": regions,
        }
    )
