"""What the server refuses of KEY=VALUE, by patterns, against what reading a plan refuses."""

import jsonschema
import pytest
from pydantic import ValidationError

pytest.importorskip("prefect")
NUMBERS = [
    "-3",
    "-0.5",
    "0",
    "0.0",
    "0.5",
    "0.999",
    "1",
    "1.5",
    "2",
    "7",
    "8",
    "9",
    "63",
    "64",
    "99",
    "100",
    "101",
    "255",
]
LISTS = ["[]", "[ ]", '["a"]', "['a', \"b, c]\",]", '["a", 1]', "[0.9, 0.98]", "[0.9]", "[0.1, 0.2, 0.3]", '[0.9, "b"]']


LISTS += ['["0.9", 1e-3]', "[[0.9, 0.98]]", "[\n0.9,\n0.98,\n]"]


NUMBERS += ["256", "257", "300", "301", "999", "1000", "1001", "4000", "4001", "4097", "100001", "2147483648"]


NUMBERS += ['"5"', "'0.5'", "+4", "5 # so"]


WORDS = ["no", "cosine", '"cosine"', "cosin", "mean-last-4", "a/b.toml", "'7'", "{a = 1}", "abc"]
ODD = [
    "1_000",
    "1e3",
    "1e-3",
    "0x10",
    "1.0",
    "0.005",
    "[1, 2]",
    "[0.9, # so\n0.98]",
    '["a", # so\n"b"]',
]  # may be taken, whatever they are
SPACED = ["-3", "0.5", "7", "cosine", '"cosine"', "a/b.toml", "[1, 2]"]  # tried with blanks around them too
KINDS = ["torchvision", "grid", "bottom-up", "detectron2"]


def setting(plan: dict, key: str, value: str) -> set[str]:
    """What pydantic finds wrong with the plan once `value` is set: the types of its errors at that key, or below it."""
    from pipeline.plans.load import _apply_override
    from pipeline.plans.plan import Plan

    content = {name: dict(below) if isinstance(below, dict) else below for name, below in plan.items()}
    _apply_override(content, f"{key}={value}")
    try:
        Plan.model_validate(content)
    except ValidationError as error:
        place = key.strip().split(".")
        found = [(e["type"], [str(p) for p in e["loc"] if p not in KINDS]) for e in error.errors()]
        return {kind for kind, where in found if where[: len(place)] == place and kind != "value_error"}
    return set()


def keys() -> dict[str, list[str]]:
    """Every dotted key of a value, by the fields of the models, with the kinds of regions that have it."""
    from pipeline.plans.errors import _list_models
    from pipeline.plans.plan import Plan

    found: dict[str, list[str]] = {}

    def walk(models, before, kind):
        for model in models:
            of = model.model_fields["kind"].default if before == "regions." else kind
            for name, field in model.model_fields.items():
                below = _list_models(field.annotation)
                walk(below, f"{before}{name}.", of) if below else found.setdefault(before + name, []).append(of)

    walk([Plan], "", "torchvision")
    return found


@pytest.mark.slow
def test_no_value_is_refused_that_a_plan_takes_and_none_of_a_wrong_type_or_out_of_bounds_is_taken():
    from flows.setting_schema import setting_schema
    from pipeline.plans.plan import Plan

    server = jsonschema.Draft202012Validator(setting_schema(Plan))
    plain = {"workspace": "w", "demo": {}}
    dataset = {"workspace": "w", "dataset": {"name": "n", "annotations": "a", "images": "i"}}
    right = wrong = 0
    for key, kinds in keys().items():
        if key == "regions.kind":  # pydantic finds another kind's fault at the table
            continue
        for value in NUMBERS + WORDS + LISTS + ODD:
            plan = dataset if key.startswith("dataset.") else plain
            plans = [plan | ({"regions": {"kind": kind}} if key.startswith("regions.") else {}) for kind in kinds]
            faults = [setting(plan, key, value) for plan in plans]
            taken = server.is_valid(f"{key}={value}")
            assert taken == any(not fault for fault in faults) or (taken and value in ODD), (key, value, faults)
            for spaced in (f"{key} = {value}", f" {key}\t=  {value} "):
                assert server.is_valid(spaced) == taken, spaced
            right, wrong = right + taken, wrong + (not taken)
    assert min(right, wrong) > 1000
