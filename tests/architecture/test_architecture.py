"""The structure of the code base: who imports whom, one home per heavy library, which files and functions are large.

docs/explanation/architecture.md describes the packages. Imports are read from the syntax trees, those inside functions
and under `TYPE_CHECKING` too.
"""

import ast
import sys
import tomllib
from collections import defaultdict
from pathlib import PurePath

import pytest

from tests import conftest
from tests.architecture.code import (
    PACKAGES,
    ROOT,
    Import,
    file_of,
    imports_of,
    module_name,
    parse,
    product_files,
    tracked_files,
)

BELOW = {  # a package imports only these; extractors, tern and index never import each other
    "data": set(),
    "extractors": {"data"},
    "tern": {"data"},
    "index": {"data"},
    "pipeline": {"data", "extractors", "tern", "index"},
    "flows": {"data", "extractors", "tern", "index", "pipeline"},
}
# Sub-packages and root modules of each package, low to high: one imports only those before it.
LAYERS = {
    "data": "text batches alignment settings config unpickle io onnx manifest images datasets store formats exchange "
    "demo",
    "extractors": "config packaged torch_free nn regions bottom_up text demo_detector registry",
    "tern": "presets config size card query networks losses batching evaluation model parallel training",
    "index": "config metadata versions ivf collection search tuning building quality exchange",
    "pipeline": "workspace origin progress workers plan_files photo_folders plans lineage stages "
    "runs search pages service cli",
    "flows": "setting_schema parameters tasks reporting server runs flows commands plugin",
}
DEMO_LAYERS = ("scenes", "drawing")  # of data/demo, before its other files
HOMES = {  # library -> the only files and folders that import it
    "h5py": ("data/store/", "data/formats/vqa_hdf5.py"),
    "PIL": (
        "data/images/",
        "data/exchange/",
        "data/demo/",
        "extractors/torch_free/image_fit.py",
        "extractors/demo_detector/",
        "pipeline/pages/",
    ),
    "torch": (
        "extractors/",
        "tern/networks/",
        "tern/losses/",
        "tern/batching/",
        "tern/model/",
        "tern/parallel/",
        "tern/training/",
    ),
    "torchvision": ("extractors/regions/", "extractors/bottom_up/", "extractors/demo_detector/"),
    "timm": ("extractors/nn/backbone.py",),
    "onnxruntime": ("data/onnx/",),
    "detectron2": ("extractors/regions/detectron2_faster_rcnn.py",),
    "transformers": ("extractors/text/models.py",),
    "safetensors": ("extractors/", "tern/model/", "tern/query/", "tern/training/"),
    "pytorch_metric_learning": ("tern/losses/metric_learning.py",),
    "faiss": ("index/ivf/",),
    "pyarrow": (
        "data/datasets/",
        "data/images/",
        "index/metadata/",
        "index/building/",
        "index/quality/",
        "index/exchange/",
    ),
    "sqlite3": ("index/metadata/",),
    "jinja2": ("pipeline/pages/",),
    "matplotlib": ("pipeline/pages/", "tern/training/curves.py"),
    "rich": ("pipeline/progress.py", "pipeline/pages/preview.py"),
    "textual_image": ("pipeline/pages/preview.py",),
    "mcp": ("pipeline/service/mcp_server.py",),
    "typer": ("pipeline/cli/", "flows/commands.py"),
    "fastapi": ("pipeline/service/",),
    "uvicorn": ("pipeline/service/",),
    "prometheus_client": ("pipeline/service/metrics.py",),
    "prefect": ("flows/",),
    "httpx": ("flows/",),
    "yaml": ("flows/", "extractors/regions/detectron2_faster_rcnn.py"),
    "tomllib": ("pipeline/plans/", "pipeline/plan_files.py", "pipeline/photo_folders.py"),
}
# Files whose imports inside functions are their design: a command or a kind imports what it needs when it is chosen.
LATE_IMPORTS = ("pipeline/cli/", "flows/commands.py", "flows/flows.py", "extractors/registry.py")
# Libraries that a function imports because they are optional or only draw.
OPTIONAL = {"dask", "detectron2", "matplotlib", "tensorboard", "prefect_dask", "prefect_ray", "torch.utils.tensorboard"}
# The environment is read in data/settings.py, except for variables of other programs.
READS_ENVIRONMENT = {
    "data/settings.py": "TERN_*, XDG_*",
    "data/onnx/session.py": "ORT_*",
    "pipeline/cli/app.py": "OMP_*, TORCH_*, PYDANTIC_*",
    "pipeline/service/supervisor.py": "PROMETHEUS_*",
    "pipeline/workers.py": "OMP_*",
    "flows/server/environment.py": "PREFECT_*",
    "flows/server/follow.py": "PREFECT_*",
    "tern/parallel/group.py": "torchrun's",
}


def layer_of(file: str) -> tuple[str, str]:
    """Split `index/versions/tags.py` into package and sub-package, and `index/config.py` into package and module."""
    parts = PurePath(file).parts
    return parts[0], parts[1].removesuffix(".py")


def product_imports() -> list[tuple[Import, str]]:
    """List the imports of the six packages from each other, each with the file that defines the name."""
    pairs = ((found, file_of(found.module, found.name)) for file in product_files() for found in imports_of(file))
    return [(found, target) for found, target in pairs if target is not None and target != found.file]


def test_packages_import_only_packages_below_them():
    wrong = [
        str(found)
        for found, target in product_imports()
        if (source := layer_of(found.file)[0]) != (package := layer_of(target)[0]) and package not in BELOW[source]
    ]
    assert not wrong


def test_sub_packages_import_only_sub_packages_before_them():
    order = {package: names.split() for package, names in LAYERS.items()}
    unknown = {layer_of(file) for file in product_files()} - {
        (package, name) for package, names in order.items() for name in [*names, "__init__"]
    }
    assert not unknown, f"add them to LAYERS, in their place: {unknown}"
    wrong = []
    for found, target in product_imports():
        (package, source), (other, imported) = layer_of(found.file), layer_of(target)
        if package != other or source == imported or found.file == f"{package}/__init__.py":
            continue
        names = order[package]
        if imported == "__init__" or names.index(imported) >= names.index(source):
            wrong.append(f"{found}: {source} imports {imported}")
    assert not wrong


def test_demo_dataset_draws_after_it_knows_its_scenes():
    wrong = []
    for found, target in product_imports():
        if not (found.file.startswith("data/demo/") and target.startswith("data/demo/")):
            continue
        ranks = [
            DEMO_LAYERS.index(part) if (part := PurePath(file).parts[2]) in DEMO_LAYERS else len(DEMO_LAYERS)
            for file in (found.file, target)
        ]
        if ranks[1] > ranks[0]:
            wrong.append(str(found))
    assert not wrong


def test_files_do_not_import_each_other_in_a_circle():
    graph = defaultdict(set)
    for found, target in product_imports():
        if not found.file.endswith("__init__.py"):
            graph[found.file].add(target)
    done: set[str] = set()

    def visit(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, " -> ".join([*path[path.index(file) :], file])
        if file not in done:
            for target in sorted(graph[file]):
                visit(target, (*path, file))
            done.add(file)

    for file in sorted(graph):
        visit(file, ())


def test_packages_are_entered_through_their_sub_packages():
    wrong = []
    for found, target in product_imports():
        if layer_of(found.file)[0] != layer_of(target)[0]:
            depth = found.module.count(".")
            if depth != 1 or (target.endswith("__init__.py") and depth == 0):
                wrong.append(f"{found}: import from {'.'.join(found.module.split('.')[:2])}")
    assert not wrong


def test_sub_packages_declare_their_public_names():
    for file in (file for file in product_files() if file.endswith("__init__.py")):
        tree = parse(file)
        assert ast.get_docstring(tree), f"{file} has no docstring"
        checked = [node for branch in tree.body if isinstance(branch, ast.If) for node in branch.body]  # TYPE_CHECKING
        imports = [node for node in (*tree.body, *checked) if isinstance(node, ast.ImportFrom)]
        names = {alias.asname or alias.name for node in imports if node.module != "typing" for alias in node.names}
        if file.count("/") == 1:
            assert not names, f"{file}: the package is imported by every light command, so it imports nothing"
        if names:
            declared = next(
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            )
            assert set(declared) == names, file


@pytest.mark.parametrize("library", HOMES)
def test_heavy_library_is_imported_only_at_home(library):
    wrong = [
        str(found)
        for file in product_files()
        for found in imports_of(file)
        if found.module.split(".")[0] == library and not file.startswith(HOMES[library])
    ]
    assert not wrong, f"{library} belongs to {HOMES[library]}"


def test_configurations_import_neither_code_nor_heavy_libraries():
    configs = {f"{package}/config.py" for package in PACKAGES} | {"pipeline/plans/plan.py", "tern/presets.py"}
    allowed = {module_name(file) for file in configs} | {"pydantic"}
    wrong = [
        str(found)
        for file in sorted(configs & set(product_files()))
        for found in imports_of(file)
        if found.module not in allowed and found.module.split(".")[0] not in sys.stdlib_module_names
    ]
    assert not wrong


def test_imports_inside_functions_have_a_reason():
    wrong = [
        str(found)
        for file in product_files()
        for found in imports_of(file)
        if found.is_nested
        and not file.startswith(LATE_IMPORTS)
        and found.module.split(".")[0] not in OPTIONAL
        and found.module not in OPTIONAL
        and "# lazy: " not in found.text
    ]
    assert not wrong, "import at the top of the file, or add `# lazy: <reason>`"


def test_modules_are_not_imported_by_computed_names():
    wrong = [str(found) for file in product_files() for found in imports_of(file) if found.name == "import_module"]
    assert not wrong


def test_environment_is_read_in_one_place():
    wrong = [
        f"{file}:{node.lineno}"
        for file in product_files()
        if file not in READS_ENVIRONMENT
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os"
    ]
    assert not wrong, "read it in data/settings.py"


def measure_sizes() -> dict[str, tuple[int, int]]:
    """Measure what is larger than the rules of docs/explanation/architecture.md ask about: name -> (size, limit)."""
    sizes: dict[str, tuple[int, int]] = {}
    folders: dict[str, int] = defaultdict(int)
    for file in product_files():
        folders[str(PurePath(file).parent)] += 1
        sizes[file] = (len((ROOT / file).read_text(encoding="utf-8").splitlines()), 250)
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
                first = node.body[0]  # a docstring does not count: documentation is not rationed
                skipped = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - skipped
                sizes[f"{file}:{node.name}"] = (lines, 40)
                if not file.startswith(("pipeline/cli/", "flows/flows.py")):  # options of a command, fields of a form
                    sizes[f"{file}:{node.name}()"] = (count, 6)
            elif isinstance(node, ast.ClassDef):
                methods = [
                    inner
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                ]
                sizes[f"{file}:{node.name}"] = (len(methods), 12)
    sizes |= {folder: (count, 12) for folder, count in folders.items()}
    return {name: (size, limit) for name, (size, limit) in sizes.items() if size > limit}


def test_large_files_and_functions_have_a_reason_that_still_holds():
    reasons = tomllib.loads((ROOT / "tests/architecture/sizes.toml").read_text(encoding="utf-8"))
    large = measure_sizes()
    missing = {name: f"{size}, more than {limit}" for name, (size, limit) in large.items() if not reasons.get(name)}
    assert not missing, "make them smaller, or give the reason in tests/architecture/sizes.toml"
    assert not set(reasons) - set(large), "these are small again: remove them from tests/architecture/sizes.toml"


def test_test_files_do_not_import_each_other():
    wrong = [
        str(found)
        for file in tracked_files("tests/*.py")
        for found in imports_of(file)
        if found.module.startswith("tests.") and f"{found.module}.{found.name}".rpartition(".test_")[1]
    ]
    assert not wrong, "move what they share to tests/helpers, or into a conftest.py"


def test_reference_implementations_import_nothing_of_the_product():
    wrong = [
        str(found)
        for file in tracked_files("tests/reference/*.py")
        for found in imports_of(file)
        if found.module.split(".")[0] in PACKAGES
    ]
    assert not wrong


def test_files_that_are_begun_first_exist():
    assert {*conftest.SERVER_FILES, *conftest.LONG_FILES} <= {*tracked_files("tests/*.py")}


def test_test_folders_are_packages():
    folders = {PurePath(file).parent for file in tracked_files("tests/*.py")}
    missing = [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()]
    assert not missing
