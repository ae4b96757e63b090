"""Settings of the process: every `TERN_*` variable is read from the environment at each call, and checked."""

import re
import subprocess
from pathlib import Path

import pytest

from data.settings import Settings, read_settings, variable_name

ROOT = Path(__file__).parents[2]
VALUES = {  # field: text of the variable, value
    "task_runner": ("dask", "dask"),
    "task_runner_workers": ("4", 4),
    "dask_address": ("tcp://host:8786", "tcp://host:8786"),
    "ray_address": ("ray://host:10001", "ray://host:10001"),
    "gpu_slots": ("2", 2),
    "run_timeout_hours": ("1.5", 1.5),
    "shard_timeout_minutes": ("90", 90.0),
    "lock_timeout_minutes": ("0", 0.0),
    "on_failure": ("mail -s failed me", "mail -s failed me"),
    "tokens": ("a-token-of-letters another-long-token", "a-token-of-letters another-long-token"),
    "thumbnail_cache_mb": ("0", 0),
    "index_device": ("cpu", "cpu"),
}
INVALID = {  # variable: text, what the message says
    "TERN_TASK_RUNNER": ("spark", "it must be 'threads', 'processes', 'dask' or 'ray'"),
    "TERN_TASK_RUNNER_WORKERS": ("many", "it must be a valid integer"),
    "TERN_GPU_SLOTS": ("0", "it must be greater than or equal to 1"),
    "TERN_RUN_TIMEOUT_HOURS": ("0", "it must be greater than 0"),
    "TERN_SHARD_TIMEOUT_MINUTES": ("inf", "it must be a finite number"),
    "TERN_LOCK_TIMEOUT_MINUTES": ("-1", "it must be greater than or equal to 0"),
    "TERN_THUMBNAIL_CACHE_MB": ("-1", "it must be greater than or equal to 0"),
    "TERN_INDEX_DEVICE": ("tpu", "it must be 'auto' or 'cpu'"),
}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_name(field), raising=False)


def test_settings_without_variables_are_the_defaults():
    assert read_settings() == Settings()
    assert read_settings().lock_timeout_minutes == 60


@pytest.mark.parametrize("field", Settings.model_fields)
def test_each_field_is_read_from_its_variable_at_each_call(field, monkeypatch):
    text, value = VALUES[field]
    monkeypatch.setenv(variable_name(field), text)
    assert read_settings() == Settings(**{field: value})
    monkeypatch.setenv(variable_name(field), "")
    assert read_settings() == Settings(), "an empty variable means the default"


@pytest.mark.parametrize("variable", INVALID)
def test_invalid_value_raises_with_variable_and_expectation(variable, monkeypatch):
    text, message = INVALID[variable]
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=re.escape(f"{variable} is {text!r}; {message}. Change or unset it.")):
        read_settings()


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("TERN_TASK_RUNER", "TERN_TASK_RUNNER"),
        ("TERN_GPUS", "TERN_GPU_SLOTS"),
        ("TERN_LOCK_MINUTES", "TERN_LOCK_TIMEOUT_MINUTES"),
        ("TERN_ENGINE_WORKERS", "TERN_TASK_RUNNER_WORKERS"),
    ],
)
def test_unknown_variable_raises_with_the_nearest_one(variable, nearest, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match=rf"{variable} is unknown; the nearest known one is {nearest}\."):
        read_settings()


@pytest.mark.parametrize("variable", ["TERN_TEST_KILLS", "TERN_TEST_INDEX_KILLS", "TERN_UP"])
def test_variables_of_the_tests_are_ignored(variable, monkeypatch):
    monkeypatch.setenv(variable, "10")
    assert read_settings() == Settings()


def test_no_other_module_reads_a_variable_of_the_settings():
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    names = {variable_name(field) for field in Settings.model_fields}
    reading = re.compile(r"(?:environ(?:\.get\(|\[)|getenv\()\s*[\"'](TERN_\w+)")
    packages = {"data", "extractors", "tern", "index", "pipeline", "flows"}
    readers = {
        file: found
        for file in files.split()
        if file.split("/")[0] in packages and (found := names & set(reading.findall((ROOT / file).read_text())))
    }
    assert readers == {}


def test_every_setting_has_a_description():
    source = (ROOT / "data/settings.py").read_text()
    for field in Settings.model_fields:
        assert re.search(rf'\n    {field}: .*\n    """[A-Z].*\."""\n', source), field
