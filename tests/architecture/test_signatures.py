"""No function takes or returns a dict with fixed keys: what has fixed keys is a model, a dataclass or a named tuple.

The annotations `dict[str, Any]` and `Mapping[str, Any]` stay where the keys are data, such as column names, or where
another library fixes the type. `EXCEPTIONS` lists these functions with the reason.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.code import parse, product_files

UNTYPED = re.compile(r"\b(?:dict|Dict|Mapping|MutableMapping)\[str, (?:Any|object)\]")

COLUMNS = "the keys are column names of a shard: which ones depends on the extractor and the format"
RECIPE = "the keys depend on the extractor; the digest of all of them names the store"
FORMAT = "the keys are fields of a third-party file"
PLAN = "settings before validation, as the TOML file has them"
STATE = "state of a Python object or a torch module"
PROVENANCE = "JSON that the index stores without knowing its keys"
OPENAPI = "parts of an OpenAPI document, whose keys are those of its specification"
WRITTEN = "JSON that is written and not read by other functions"
ARTIFACT = "one row of a Prefect table: the keys are the headings of its columns"
METRICS = "the keys are the metric names of metrics-*.json, of history.csv and of artifacts; folds and NDCG add some"

KEY = "what determines a cached file, compared as JSON; each kind of file has other fields"
EXCEPTIONS = {
    "data/onnx/cache.py:CachedGraph.__init__": KEY,
    "data/onnx/cache.py:CachedGraph.write": KEY,
    "extractors/torch_free/text_recipe.py:_make_key": KEY,
    "data/datasets/fields.py:find_unread_split": FORMAT,
    "data/datasets/entry.py:Entry.add_values": FORMAT,
    "data/datasets/parquet_rows.py:iter_parquet_rows": FORMAT,
    "data/datasets/rows.py:CaptionRow.columns": FORMAT,
    "data/images/shards/list_cache.py:_make_head": KEY,
    "data/images/shards/list_cache.py:_read_list": KEY,
    "data/images/shards/list_cache.py:_write_list": KEY,
    "data/io/json_text.py:_make_object": FORMAT,
    "data/demo/write.py:_iter_records": FORMAT,
    "data/exchange/checks.py:fill_missing_fields": COLUMNS,
    "data/exchange/checks.py:find_problem": COLUMNS,
    "data/exchange/region_file.py:RegionFile.recipe": RECIPE,
    "data/exchange/region_file.py:RegionFile.rows": COLUMNS,
    "data/exchange/region_file.py:RegionFile._get_fields": COLUMNS,
    "index/exchange/metadata_rows.py:_make_row": "the keys are columns of a third-party file",
    "index/exchange/metadata_rows.py:_convert_values": "the keys are columns of a third-party file",
    "data/formats/npz.py:write_npz": "the keys are names of arrays; numpy takes arrays and scalars",
    "data/formats/names.py:_format_field": "the keys are the field names of an id template",
    "data/formats/per_image.py:_read_x_fields": COLUMNS,
    "data/formats/vqa_hdf5.py:_read_fields": COLUMNS,
    "data/manifest/manifest.py:StoreManifest.to_json": WRITTEN,
    "data/store/shard_writer.py:write_shard": COLUMNS,
    "data/store/store.py:Store.__getstate__": STATE,
    "data/store/store.py:Store.__setstate__": STATE,
    "extractors/bottom_up/extractor.py:BottomUpExtractor._settings_recipe": RECIPE,
    "extractors/config.py:machine_independent": RECIPE,
    "extractors/regions/base.py:RegionExtractor.recipe": RECIPE,
    "extractors/regions/base.py:RegionExtractor._settings_recipe": RECIPE,
    "extractors/regions/detectron2_faster_rcnn.py:Detectron2Extractor._settings_recipe": RECIPE,
    "extractors/regions/faster_rcnn.py:TorchvisionExtractor._settings_recipe": RECIPE,
    "extractors/regions/grid.py:GridExtractor._settings_recipe": RECIPE,
    "extractors/text/extractor.py:TextExtractor.recipe": RECIPE,
    "pipeline/plans/package.py:apply_package": PLAN,
    "pipeline/plans/package.py:find_plan_package": PLAN,
    "pipeline/plans/package.py:_find_contradictions": PLAN,
    "pipeline/plans/package.py:_read_settings": PLAN,
    "tern/evaluation/results.py:SplitEvaluation.flat": METRICS,
    "tern/evaluation/results.py:SplitEvaluation.from_flat": METRICS,
    "tern/losses/memory.py:CrossBatchMemory._load_from_state_dict": STATE,
    "tern/presets.py:apply_preset": PLAN,
    "tern/presets.py:follow_size": PLAN,
    "tern/presets.py:merge_tables": PLAN,
    "tern/size.py:_complete": PLAN,
    "tern/training/optim.py:make_param_groups": "torch's parameter groups",
    "tern/training/trainer.py:Trainer.stateful_parts": "the keys are names in last.pt; the values have `state_dict`",
    "index/building/build.py:check_json_plain": PROVENANCE,
    "index/building/collection_build.py:CollectionBuild.run": PROVENANCE,
    "index/building/shard.py:compute_vector_space": PROVENANCE,
    "index/building/update.py:_check_compatible": PROVENANCE,
    "index/building/update.py:_resolve_settings": "settings of an older version, which may have other names",
    "index/versions/verdict.py:GateCheck._omit_none": "the type that pydantic gives a serializer",
    "index/versions/verdict.py:GateVerdict._omit_override": "the type that pydantic gives a serializer",
    "index/versions/manifest.py:Manifest.as_dict": WRITTEN,
    "pipeline/plans/load.py:_apply_override": PLAN,
    "pipeline/service/api/openapi.py:_add_schemas": OPENAPI,
    "pipeline/service/api/openapi.py:install_openapi.make_document": OPENAPI,
    "pipeline/service/api/parameters.py:make_error_responses": OPENAPI,
    "pipeline/service/logs.py:make_log_config": "the schema of `logging.config.dictConfig`",
    "pipeline/stages/extract.py:_make_jobs": "the keys are ids; the values are what the extractor reads",
    "pipeline/stages/extract.py:_iter_region_rows": COLUMNS,
    "pipeline/stages/extract.py:_iter_token_rows": COLUMNS,
    "flows/reporting/artifacts.py:create_table": ARTIFACT,
    "flows/reporting/artifacts.py:_format_row": ARTIFACT,
    "flows/reporting/artifacts.py:_make_collection_row": ARTIFACT,
    "flows/server/follow.py:_start": "the keys are parameters of a flow",
}


def iter_functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the qualified name and the definition of each function below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        is_scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from iter_functions(child, f"{prefix}{child.name}." if is_scope else prefix)


def list_annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """List the annotations of the parameters and of the result."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    annotations = [*(parameter.annotation for parameter in parameters if parameter is not None), function.returns]
    return [ast.unparse(annotation) for annotation in annotations if annotation is not None]


def find_untyped(tree: ast.AST) -> list[str]:
    """List the functions with a dict of arbitrary values in their signature."""
    return [name for name, function in iter_functions(tree) if UNTYPED.search(" ".join(list_annotations(function)))]


def test_signatures_have_no_untyped_dict_without_a_reason():
    untyped = {f"{file}:{name}" for file in product_files() for name in find_untyped(parse(file))}
    assert not untyped - set(EXCEPTIONS), "use a model, a dataclass or a named tuple, or list the reason in EXCEPTIONS"
    assert not set(EXCEPTIONS) - untyped, "these functions have no such dict any more: delete them from EXCEPTIONS"


@pytest.mark.parametrize(
    "source",
    [
        "def f(a: dict[str, Any]): ...",
        "def f(*, a: 'int' = 0, b: Mapping[str, Any] | None = None): ...",
        "def f() -> list[dict[str, object]]: ...",
        "async def f(*rows: dict[str, Any]): ...",
        "if True:\n    def f(**rows: dict[str, Any]): ...",
    ],
)
def test_untyped_dict_is_found(source):
    assert find_untyped(ast.parse(source)) == ["f"]
    assert find_untyped(ast.parse(source.replace("Any", "int").replace("object", "int"))) == []
