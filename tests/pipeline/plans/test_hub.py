"""Model packages of the Hugging Face hub, with a client that has no network."""

import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from pipeline.plans import hub, open_package
from tern.card import PACKAGE_FILES, verify_package
from tests.helpers.packages import write_small_package

COMMIT = "c" * 40


class FakeHub:
    """A hub with one repository, and a cache whose files are links to blobs, as that of huggingface_hub."""

    def __init__(self, root) -> None:
        self.repository, self.cache = root / "repository", root / "cache" / "models--owner--name"
        write_small_package(self.repository)
        (self.repository / "secret.bin").write_bytes(b"not a file of a package")
        self.requests: list[str | None] = []
        self.size = 1_000
        self.error: Exception | None = None

    def model_info(self, name, *, revision, files_metadata, timeout):
        assert (name, files_metadata) == ("owner/name", True)
        assert timeout <= 10
        self.requests.append(revision)
        if self.error:
            raise self.error
        files = [SimpleNamespace(rfilename=path.name, size=self.size) for path in self.repository.iterdir()]
        return SimpleNamespace(siblings=files, sha=COMMIT)

    def snapshot_download(self, name, *, revision, allow_patterns, local_files_only=False):
        snapshot = self.cache / "snapshots" / COMMIT
        if local_files_only:
            if not snapshot.exists():
                raise LocalEntryNotFoundError("not in the cache")
            return str(snapshot)
        assert revision == COMMIT, "what was measured is downloaded"
        (self.cache / "blobs").mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.repository.iterdir():
            if path.name in allow_patterns and not (snapshot / path.name).exists():
                shutil.copy(path, self.cache / "blobs" / path.name)
                (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
        return str(snapshot)


@pytest.fixture
def client(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return fake


def test_package_is_downloaded_once_and_without_other_files(client):
    package = open_package("owner/name@v1")
    assert package.name == "owner/name@v1"
    assert client.requests == ["v1"]
    assert list(verify_package(package)) == sorted(package.config.files)
    assert {path.name for path in package.folder.iterdir()} < set(PACKAGE_FILES)
    assert open_package("owner/name@v1").digest == package.digest
    assert client.requests == ["v1"], "the second time it comes from the cache"


def test_interrupted_download_is_completed(client):
    package = open_package("owner/name")
    (package.folder / "model.safetensors").unlink()
    assert open_package("owner/name").digest == package.digest
    assert client.requests == [None, None]


def test_link_out_of_the_cache_is_refused(client, tmp_path):
    package = open_package("owner/name")
    (tmp_path / "outside").write_bytes((package.folder / "model.safetensors").read_bytes())
    (package.folder / "model.safetensors").unlink()
    (package.folder / "model.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"model\.safetensors is a link"):
        open_package("owner/name")


def test_offline_error_says_so_and_names_a_folder(client, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"owner/name is not on this machine, and HF_HUB_OFFLINE .*to its folder"):
        open_package("owner/name")
    assert client.requests == []


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("any client"), TimeoutError()])
def test_hub_that_cannot_be_reached_is_one_line_with_the_alternative(client, error):
    client.error = error
    with pytest.raises(ConnectionError, match=r"hub cannot be reached .*set `model` to its folder") as caught:
        open_package("owner/name")
    assert "\n" not in str(caught.value)


def test_unknown_name_is_not_called_a_network_error(client):
    client.error = RepositoryNotFoundError("404 Client Error\nmore", response=SimpleNamespace(headers={}, request=None))
    with pytest.raises(FileNotFoundError, match=r"has no model package owner/name .*404 Client Error\)"):
        open_package("owner/name")


def test_large_package_is_refused_before_the_download(client):
    client.size = 1 << 40
    with pytest.raises(ValueError, match=r"package owner/name has .* bytes; at most 4,294,967,296 are read"):
        open_package("owner/name")
    assert not client.cache.exists()


def test_repository_of_another_model_is_named(client):
    (client.repository / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json is not that of a model package"):
        open_package("owner/name")
