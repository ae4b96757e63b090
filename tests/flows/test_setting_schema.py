"""The patterns with which the server checks KEY=VALUE, compared with the checks of the plan itself."""

import re

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
]  # the schema may accept them although the plan does not
KINDS = ["torchvision", "grid", "bottom-up", "detectron2"]


def find_errors(plan: dict, key: str, value: str) -> set[str]:
    """Return the types of the errors that pydantic finds at a key, or below it, after the key is set to `value`."""
    from pipeline.plans.load import _apply_override
    from pipeline.plans.plan import Plan

    content = {name: dict(values) if isinstance(values, dict) else values for name, values in plan.items()}
    _apply_override(content, f"{key}={value}")
    try:
        Plan.model_validate(content)
    except ValidationError as error:
        path = key.strip().split(".")
        errors = [(e["type"], [str(p) for p in e["loc"] if p not in KINDS]) for e in error.errors()]
        return {kind for kind, where in errors if where[: len(path)] == path and kind != "value_error"}
    return set()


def list_keys() -> dict[str, list[str]]:
    """Return every dotted key of the plan with the kinds of regions that have it."""
    from pipeline.plans.errors import _list_models
    from pipeline.plans.plan import Plan

    kinds_by_key: dict[str, list[str]] = {}

    def walk(models, prefix, kind):
        for model in models:
            region_kind = model.model_fields["kind"].default if prefix == "regions." else kind
            for name, field in model.model_fields.items():
                nested = _list_models(field.annotation)
                walk(nested, f"{prefix}{name}.", region_kind) if nested else kinds_by_key.setdefault(
                    prefix + name, []
                ).append(region_kind)

    walk([Plan], "", "torchvision")
    return kinds_by_key


def is_accepted_by(schema: dict, setting: str) -> bool:
    """Follow the chain of patterns as a JSON schema validator does, twenty times faster."""
    while "if" in schema:
        assert schema["if"].keys() == {"pattern"}
        schema = schema.get("then" if re.search(schema["if"]["pattern"], setting) else "else", {})
    assert not schema or schema.keys() == {"const"}
    return not schema


@pytest.mark.slow
def test_setting_schema_accepts_exactly_the_values_that_a_plan_accepts():
    from flows.setting_schema import setting_schema
    from pipeline.plans.plan import Plan

    schema = setting_schema(Plan)
    validator = jsonschema.Draft202012Validator(schema)
    demo_plan = {"workspace": "w", "demo": {}}
    dataset_plan = {"workspace": "w", "dataset": {"name": "n", "annotations": "a", "images": "i"}}
    num_accepted = num_rejected = 0
    for key, kinds in list_keys().items():
        if key == "regions.kind":  # pydantic reports an error of this key at its table
            continue
        for value in NUMBERS + WORDS + LISTS + ODD:
            plan = dataset_plan if key.startswith("dataset.") else demo_plan
            plans = [plan | ({"regions": {"kind": kind}} if key.startswith("regions.") else {}) for kind in kinds]
            errors = [find_errors(plan, key, value) for plan in plans]
            is_accepted = validator.is_valid(f"{key}={value}")
            assert is_accepted_by(schema, f"{key}={value}") == is_accepted, (key, value)
            assert is_accepted == any(not kind_errors for kind_errors in errors) or (is_accepted and value in ODD), (
                key,
                value,
                errors,
            )
            for spaced_setting in (f"{key} = {value}", f" {key}\t=  {value} "):
                assert is_accepted_by(schema, spaced_setting) == is_accepted, spaced_setting
            num_accepted, num_rejected = num_accepted + is_accepted, num_rejected + (not is_accepted)
    assert min(num_accepted, num_rejected) > 1000
