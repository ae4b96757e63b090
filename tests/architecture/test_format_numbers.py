"""A format on disk does not change without its number: the shape of each is recorded under its number.

If a test fails, raise the number, say in the reader of the format what to do with older files, and record the new
digest under the new number in format_numbers.toml. The line of an older number stays as it is.
"""

import json
import tomllib
from pathlib import Path

import pytest

from data.config import DemoConfig
from data.demo import write as demo
from data.io.digests import digest
from data.manifest import manifest as store
from data.manifest.schema import FIELDS
from index.metadata.arrow_schema import SCHEMA
from index.versions.manifest import SCHEMA_VERSION as INDEX_SCHEMA
from index.versions.manifest import Manifest
from tern.card import model_card as card
from tern.card import package_records as package
from tern.config import ModelConfig
from tern.networks.build import build_trainable

RECORDED = tomllib.loads(Path(__file__).with_name("format_numbers.toml").read_text(encoding="utf-8"))
DOCUMENTATION = {"description", "title", "default", "examples"}
ARCHITECTURES = {
    "default": ModelConfig(width=16, heads=2, embed_dim=8),
    "paper": ModelConfig(architecture="paper", width=16, heads=2, embed_dim=8, pooling="cls", pre_norm=False,
                         shortcut=False, count_similar_regions=False, input_dropout=0.0),
}  # fmt: skip


def strip_documentation(schema):
    """Remove what does not change the bytes of a file from a JSON schema."""
    if isinstance(schema, dict):
        properties = {"properties": schema["properties"]} if "properties" in schema else {}
        kept = {key: value for key, value in schema.items() if key not in DOCUMENTATION} | properties
        return {
            key: {name: strip_documentation(value) for name, value in part.items()}
            if key == "properties" else strip_documentation(part)
            for key, part in kept.items()
        }  # fmt: skip
    return [strip_documentation(part) for part in schema] if isinstance(schema, list) else schema


def describe_networks():
    """List names and shapes of the weights of each network."""
    models = {name: build_trainable(config, 6, 5, None) for name, config in ARCHITECTURES.items()}
    return {
        name: {key: list(value.shape) for key, value in model.state_dict().items()} for name, model in models.items()
    }


def describe_card():
    """List the keys of a card, and those of the shape of the network; other settings may come with a default."""
    return [sorted(card.ModelCard.model_fields), sorted(ModelConfig.model_fields)]


FORMATS = {
    "store": (
        store.SCHEMA_VERSION,
        lambda: [strip_documentation(store.StoreManifest.model_json_schema()), {k: repr(v) for k, v in FIELDS.items()}],
    ),
    "index": (INDEX_SCHEMA, lambda: [strip_documentation(Manifest.model_json_schema()), str(SCHEMA)]),
    "card": (card.SCHEMA_VERSION, describe_card),
    "package": (
        package.PACKAGE_SCHEMA,
        lambda: [
            sorted(record.model_fields)
            for record in (
                *(package.PackageConfig, package.PackageFile, package.PackageOrigin),
                *(package.PackageExtractors, package.PackageExtractor, package.PackagePath),
            )
        ],
    ),
    "network": (card.NETWORK_VERSION, describe_networks),
    "demo": (demo.VERSION, lambda: sorted(DemoConfig.model_fields)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_changes_only_with_its_number(name):
    number, describe = FORMATS[name]
    found = digest(json.loads(json.dumps(describe())))
    recorded = RECORDED[name].get(str(number))
    assert found == recorded, (
        f"the format {name!r} has changed, or its number: raise the number, and record {number} = {found!r} in "
        "format_numbers.toml; never change the line of an older number"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_highest_recorded_number_is_the_present_one(name):
    assert max(map(int, RECORDED[name])) == FORMATS[name][0]


def test_a_changed_format_has_another_digest():
    schema = strip_documentation(store.StoreManifest.model_json_schema())
    changed = json.loads(json.dumps(schema))
    changed["properties"]["more"] = {"type": "integer"}
    assert digest(changed) != digest(schema)
    changed = json.loads(json.dumps(schema))
    changed["description"] = "other words"
    assert digest(strip_documentation(changed)) == digest(schema)
