"""Dockerfile, compose.yaml and the Kubernetes example agree with the code: paths, extras, commands, ports, names."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.settings import Settings, variable_name
from pipeline.service.access.guard import PUBLIC_PATHS
from pipeline.service.limits import EXIT_SECONDS
from tests.architecture.code import ROOT, tracked_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
KUBERNETES = ROOT / "deploy/kubernetes"
TERN_SERVICES = [name for name, service in SERVICES.items() if "tern-retrieval" in service["image"]]
SERVE_PORT, PREFECT_PORT = 8080, 4200
OTHER_VARIABLES = {  # name: what reads it
    "DO_NOT_TRACK": "the client of Prefect",
    "HOME": "Python",
    "OMP_NUM_THREADS": "torch, FAISS and numpy",
    "PATH": "the shell",
    "PYTHONDONTWRITEBYTECODE": "Python",
    "PYTHONUNBUFFERED": "Python",
    "XDG_CACHE_HOME": "data/settings.py, torch, transformers and matplotlib",
    "XDG_DATA_HOME": "data/settings.py",
}


def read_dockerfile() -> list[tuple[str, str]]:
    """Read the instructions of the Dockerfile and their arguments, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines if line]


def get_arguments(instruction: str) -> list[str]:
    return [arguments for name, arguments in read_dockerfile() if name == instruction]


def read_manifests() -> list[dict[str, Any]]:
    paths = sorted(KUBERNETES.glob("*.yaml"))
    return [entry for path in paths for entry in yaml.safe_load_all(path.read_text()) if "metadata" in entry]


def find_pods() -> dict[str, dict[str, Any]]:
    """Find the specification of the pods of each workload."""
    pods = {}
    for manifest in read_manifests():
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            pods[manifest["metadata"]["name"]] = spec["template"]["spec"]
    return pods


CONTAINERS = {name: pod["containers"][0] for name, pod in find_pods().items()}
COMMANDS = {
    "Dockerfile": json.loads(get_arguments("CMD")[0]),
    "search in compose.yaml": SERVICES["search"]["command"],
    "worker in compose.yaml": SERVICES["worker"]["command"],
    **{f"{name} in Kubernetes": container["args"] for name, container in CONTAINERS.items()},
}


@pytest.mark.parametrize("place", COMMANDS)
def test_command_is_one_that_tern_has(place):
    from click import Context
    from typer.main import get_command

    from pipeline.cli.app import build_app

    command = get_command(build_app())
    name, *words = COMMANDS[place]
    # Parses the options and their values, and does not run the command.
    command.get_command(Context(command), name).make_context(name, words)


def test_image_runs_tern_as_another_user_than_root():
    assert json.loads(get_arguments("ENTRYPOINT")[0]) == ["tern"]
    assert PROJECT["scripts"]["tern"]
    user, group = get_arguments("USER")[-1].split(":")
    assert user.isdigit(), "Kubernetes checks `runAsNonRoot` by the number"
    assert (int(user), int(group)) > (0, 0)
    for pod in find_pods().values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(user)


def test_dockerfile_copies_files_that_exist_and_reach_the_builder():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [words.split()[:-1] for words in get_arguments("COPY") if not words.startswith("--from")]
    for path in (path.rstrip("/") for paths in copied for path in paths):
        assert tracked_files(path, f"{path}/*"), f"{path} is not in the repository"
        assert path in allowed, f".dockerignore leaves {path} out"
    packages = {pattern.rstrip("*") for pattern in read_packages()}
    assert packages <= {path for paths in copied for path in paths}, "a package is missing in the image"


def read_packages() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_image_installs_the_extras_of_its_variant(variant):
    extras = dict(words.partition("=")[::2] for words in get_arguments("ARG"))["EXTRAS"]
    listed = list_requirements(variant, extras).stdout.splitlines()
    optional = PROJECT["optional-dependencies"]
    expected = {*PROJECT["dependencies"], *optional[variant]}
    assert set(listed) == expected.union(*(optional[name] for name in extras.split(",")))
    assert {"serve", "flows", "photos"} <= set(extras.split(",")), "compose.yaml runs their commands"


@pytest.mark.parametrize(
    ("variant", "extras", "message"),
    [("rocm", "serve", "must be cpu or gpu"), ("cpu", "serve,web", "no extra web"), ("", "serve", "must be cpu")],
)
def test_image_is_not_built_with_unknown_extras(variant, extras, message):
    out = list_requirements(variant, extras)
    assert out.returncode == 1
    assert message in out.stderr


def list_requirements(variant: str, extras: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "deploy/list_requirements.py", variant, extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_images_have_fixed_tags_and_the_version_of_the_project():
    version = PROJECT["version"]
    assert dict(words.partition("=")[::2] for words in get_arguments("ARG"))["VERSION"] == version
    images = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"]) for service in SERVICES.values()]
    images += [words.partition("=")[2] for words in get_arguments("ARG") if words.startswith("PYTHON_IMAGE")]
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    images += [f"{image['newName']}:{image['newTag']}" for image in kustomization["images"]]
    assert {container["image"] for container in CONTAINERS.values()} == {
        image["name"] for image in kustomization["images"]
    }
    for image in images:
        name, _, tag = image.rpartition(":")
        assert name, f"{image} has no tag"
        assert re.search(r"\d", tag), f"{image} names no version"
        assert "tern-retrieval" not in name or tag == version


def test_ports_and_health_paths_are_those_of_the_code():
    from flows.server.environment import PORT
    from pipeline.cli.serve import serve

    assert serve.__defaults__[2] == SERVE_PORT, "the order of the options of `tern serve` has changed"
    assert PORT == PREFECT_PORT
    assert get_arguments("EXPOSE") == [str(SERVE_PORT)]
    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", get_arguments("HEALTHCHECK")[0]).groups()
    assert (int(port), path in PUBLIC_PATHS) == (SERVE_PORT, True), "the health check has no token"
    container = CONTAINERS["search"]
    assert container["ports"] == [{"name": "http", "containerPort": SERVE_PORT}]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/healthz",  # a service that loads a new version is alive
    }
    assert {probe["path"] for probe in probes.values()} <= PUBLIC_PATHS
    service = next(manifest for manifest in read_manifests() if manifest["kind"] == "Service")
    assert service["spec"]["selector"] == find_labels("search")
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published == [f"127.0.0.1:{SERVE_PORT}:{SERVE_PORT}", f"127.0.0.1:{PREFECT_PORT}:{PREFECT_PORT}"]
    assert f":{PREFECT_PORT}/api" in SERVICES["worker"]["environment"]["PREFECT_API_URL"]


def find_labels(name: str) -> dict[str, str]:
    deployment = next(m for m in read_manifests() if m["kind"] == "Deployment" and m["metadata"]["name"] == name)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    return labels


def test_requests_have_the_time_that_the_service_gives_them_to_end():
    assert int(SERVICES["search"]["stop_grace_period"].rstrip("s")) > EXIT_SECONDS
    container, pod = CONTAINERS["search"], find_pods()["search"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > EXIT_SECONDS + pause


def test_environment_variables_are_ones_that_something_reads():
    prefect = pytest.importorskip("prefect.settings").Settings().to_environment_variables()
    known = {*map(variable_name, Settings.model_fields), *OTHER_VARIABLES, *prefect}
    known |= {"PREFECT_API_AUTH_STRING", "PREFECT_HOME"} | find_prefect_variables()
    text = (ROOT / "compose.yaml").read_text() + " ".join(get_arguments("ENV"))
    used = {name for service in TERN_SERVICES for name in SERVICES[service].get("environment", {})}
    used |= set(re.findall(r"\b((?:TERN|PREFECT|XDG)_\w+)\b", text))
    used |= {variable["name"] for container in CONTAINERS.values() for variable in container.get("env", ())}
    used |= set(re.findall(r"(\w+)=", " ".join(get_arguments("ENV")[-1:])))
    assert not used - known


def find_prefect_variables() -> set[str]:
    """Find the variables of Prefect, those without a default too."""
    from prefect.settings import Settings as PrefectSettings
    from prefect.settings.legacy import _get_settings_fields

    return set(_get_settings_fields(PrefectSettings))


def test_prefect_server_has_the_settings_of_tern_up():
    pytest.importorskip("prefect")
    from flows.server.environment import ALLOWED_ORIGINS, PREFECT_SETTINGS, make_environment

    environment = SERVICES["prefect"]["environment"]
    expected = {name: value for name, value in PREFECT_SETTINGS.items() if name.startswith("PREFECT_SERVER_")}
    assert {name: environment[name] for name in expected} == expected
    assert environment[ALLOWED_ORIGINS] == make_environment(PREFECT_PORT)[ALLOWED_ORIGINS]


@pytest.mark.parametrize("name", TERN_SERVICES)
def test_services_have_limits_and_a_read_only_root(name):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert {"mem_limit", "cpus", "pids_limit", "restart", "stop_grace_period"} <= set(service)
    threads = service["environment"].get("OMP_NUM_THREADS")
    assert threads in (None, str(service["cpus"]))
    targets = [volume.split(":")[1] if isinstance(volume, str) else volume["target"] for volume in service["volumes"]]
    assert ("/photos" in targets) == (name != "prefect")
    if "/photos" in targets:
        assert COMPOSE["x-photographs"]["read_only"]
    assert set(service["secrets"]) <= set(COMPOSE["secrets"])
    for secret in re.findall(r"/run/secrets/(\w+)", yaml.safe_dump(service)):
        assert secret in service["secrets"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_pods_are_restricted_and_have_limits(name):
    container, pod = CONTAINERS[name], find_pods()[name]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False, "a variable TERN_... of a service is an unknown setting"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert {"/data", "/cache", "/tmp"} <= set(mounts)
    assert mounts["/photos"], "photographs are only read"
    assert mounts["/data"] == (name == "search"), "the service writes nothing to the workspace"


def test_secrets_and_settings_of_a_user_are_never_committed():
    ignored = ("secrets/tokens.txt", "deploy/kubernetes/tokens.txt", ".env")
    out = subprocess.run(["git", "check-ignore", *ignored], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.split() == list(ignored)
    files = [secret["file"] for secret in COMPOSE["secrets"].values()]
    assert all(Path(file).parent == Path("secrets") for file in files)


def test_dockerfile_passes_hadolint():
    check("hadolint", "Dockerfile")


def test_compose_files_match_the_compose_specification():
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", "compose.gpu.yaml")


def check(tool: str, *arguments: str) -> None:
    """Run a tool beside this Python, or skip the test without it."""
    path = shutil.which(tool, path=Path(sys.executable).parent)
    if path is None:
        pytest.skip(f"{tool} is not installed: the extra `dev` has it on the platforms that it is built for")
    out = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr


def test_kustomization_renders_manifests_that_match_the_schemas(tmp_path):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    (folder / "tokens.txt").write_text("not-a-real-token-0123456789\n")
    out = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    rendered = list(yaml.safe_load_all(out.stdout))
    assert {"Deployment", "CronJob", "Service", "Secret", "PersistentVolumeClaim"} <= {m["kind"] for m in rendered}
    images = set(re.findall(r"image: (\S+)", out.stdout))
    assert images == {f"registry.example/tern-retrieval:{PROJECT['version']}"}
    if find_spec("kubernetes_validate") is None:
        pytest.skip(
            "the package kubernetes-validate is not installed; the rendered manifests were not compared with schemas"
        )
    import kubernetes_validate

    for manifest in rendered:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
