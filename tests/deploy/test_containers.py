"""The containers: pinned, healthy when they say so, without rights that they do not need, and the same Headrace as elsewhere."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.deploy.kafka_jars import KAFKA_VERSION
from headrace.deploy.parts import PARTS
from headrace.deploy.settings import Settings, variable_of
from headrace.streams import tracing

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
CUDA_FILE = ROOT / "deploy/containers/cuda.yml"
DOCKERFILE = (ROOT / "deploy/containers/Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"topics", "keys"}
# Those who sign what scorers are told.
SIGNERS = {"gateway", "keys", "learner", "recommender", "release-manager"}
# Who puts snapshots there, or takes old ones away.
STORE_WRITERS = {"learner", "release-manager"}
COMMANDS: list[Sequence[str]] = [
    command
    for command, probe in ((["docker", "compose"], ["docker", "compose", "version"]), (["docker-compose"], ["docker-compose", "version"]))
    if shutil.which(command[0]) and subprocess.run(probe, capture_output=True, check=False).returncode == 0
]


def each_service() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", SERVICES)


def parts_of(name: str) -> dict[str, Any]:
    """Return a service's environment as Compose reads it where nobody sets a variable."""
    environment = SERVICES[name].get("environment")
    given = environment if isinstance(environment, dict) else {}
    return {variable: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value for variable, value in given.items()}


@each_service()
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+(-[a-z0-9.]+)?$", SERVICES[name]["image"])


def test_the_base_image_and_uv_are_pinned_to_a_version() -> None:
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-slim-\w+$", DOCKERFILE, re.M)
    assert re.search(r"^ARG UV=\d+\.\d+\.\d+$", DOCKERFILE, re.M)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) == ["python:${PYTHON}"] * 2


def test_kafka_is_the_version_that_starts_by_itself_elsewhere() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_service_that_runs_it(part: str) -> None:
    assert SERVICES[part]["command"] == ["run", part]


def test_our_services_share_one_image_and_one_of_them_builds_it() -> None:
    ours = {name: service for name, service in SERVICES.items() if name in PARTS or name in ONE_SHOT}
    assert len({service["image"] for service in ours.values()}) == 1
    builds = [service["build"] for service in ours.values() if "build" in service]
    assert [(ROOT / build["context"] / build["dockerfile"]).is_file() for build in builds] == [True]
    assert re.search(r'^ENTRYPOINT \["headrace"\]$', DOCKERFILE, re.M)


@each_service()
def test_every_service_that_stays_tells_whether_it_is_well_and_comes_back(name: str) -> None:
    if name in ONE_SHOT:
        assert SERVICES[name]["restart"] == "no"
    else:
        assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_asked_at_the_port_on_which_it_answers(part: str) -> None:
    asked = re.search(r"http://127\.0\.0\.1:(\d+)/readyz", SERVICES[part]["healthcheck"]["test"][-1])
    assert asked
    assert asked[1] == str(parts_of(part)["HEADRACE_GATEWAY_PORT" if part == "gateway" else "HEADRACE_METRICS_PORT"])


@each_service()
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@each_service()
def test_no_service_runs_as_root_or_may_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert not service.get("privileged", False)


def test_the_image_itself_runs_as_a_user_without_rights() -> None:
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.M)
    assert users == [SERVICES["gateway"]["user"]]
    assert f"--uid {users[0].split(':')[0]} " in DOCKERFILE


@each_service()
def test_every_service_has_a_memory_limit(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])


@pytest.mark.parametrize("name", [*PARTS, *ONE_SHOT])
def test_the_environment_holds_settings_that_headrace_reads(name: str) -> None:
    given = {variable: str(value) for variable, value in parts_of(name).items()}
    assert set(given) <= {variable_of(field.name) for field in fields(Settings)} | {tracing.ENDPOINT}
    assert not given[tracing.ENDPOINT], "traces are off unless somebody asks for them"
    assert Settings.load(given).kafka == "kafka:29092"


def test_the_parts_reach_kafka_by_the_address_that_it_gives_out() -> None:
    advertised = parts_of("kafka")["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{parts_of('gateway')['HEADRACE_KAFKA']}" in advertised
    assert f"HOST://{SERVICES['kafka']['ports'][0].rpartition(':')[0]}" in advertised


@pytest.mark.parametrize("part", PARTS)
def test_the_private_key_is_seen_by_signers_alone_and_the_public_ones_by_all(part: str) -> None:
    settings = Settings.load({variable: str(value) for variable, value in parts_of(part).items()})
    mounted = {mount.split(":")[1]: mount.endswith(":ro") for mount in SERVICES[part]["volumes"]}
    assert (str(settings.signing_key.parent) in mounted) == (part in SIGNERS)
    if part != "archiver":
        assert mounted[str(settings.trusted_keys)], "a part that could write there could trust itself"
        assert mounted[settings.weight_store] == (part not in STORE_WRITERS)


def test_a_folder_for_each_volume_belongs_to_the_user_who_writes_there() -> None:
    made = re.search(r"install --directory --owner headrace.*?((?:\s+/var/lib/\S+)+)", DOCKERFILE.replace("\\\n", " "))
    assert made
    mounts = {mount.split(":")[1] for part in PARTS for mount in SERVICES[part]["volumes"]}
    assert mounts <= set(made[1].split())


@each_service()
def test_what_is_waited_for_is_a_service_that_can_come_true(name: str) -> None:
    for awaited, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] == ("service_completed_successfully" if awaited in ONE_SHOT else "service_healthy")
        assert awaited in SERVICES


def test_the_image_is_built_from_what_the_build_context_lets_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M) for name in line.split()}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_the_gpu_file_changes_known_services_only_and_names_one_image() -> None:
    changed = yaml.safe_load(CUDA_FILE.read_text())["services"]
    assert set(changed) == {*PARTS, *ONE_SHOT}
    assert len({service["image"] for service in changed.values()}) == 1
    assert all(service["image"] != SERVICES[name]["image"] for name, service in changed.items())


@pytest.mark.skipif(not COMMANDS, reason="neither `docker compose` nor `docker-compose` is on PATH")
@pytest.mark.parametrize("files", [[COMPOSE_FILE], [COMPOSE_FILE, CUDA_FILE]], ids=["cpu", "cuda"])
def test_docker_compose_accepts_the_files(files: Sequence[Path]) -> None:
    chosen = [argument for file in files for argument in ("--file", str(file))]
    for command in COMMANDS:
        done = subprocess.run([*command, *chosen, "config", "--quiet"], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
