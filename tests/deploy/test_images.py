"""Dockerfiles and the compose file: read, not built (no Docker engine is needed here)."""

import fnmatch
import importlib.util
import shlex
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import helm_python
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
CHART = ROOT / "deploy" / "helm" / "tandem"
IMAGES = {"service": "serving,redis,s3,tracing", "trainer": "training,redis,s3"}
HEALTH_NAMES = {
    "retrieval": "tandem.retrieval.v1.RetrievalService",
    "ranking": "tandem.ranking.v1.RankingService",
    "writer": "tandem.events.v1.EventService",
}
METRICS = {"retrieval": "9101", "ranking": "9102", "writer": "9103"}
MODULES = {"retrieval": "tandem_retrieval", "ranking": "tandem_ranking", "writer": "tandem_ranking.writer"}
TRAINING_ONLY = {"torch", "pandas", "implicit"}

Instruction = tuple[str, str]


def stages(image: str) -> list[list[Instruction]]:
    """The instructions of each stage; those before the first FROM come first."""
    text = (DOCKER / f"{image}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[list[Instruction]] = [[]]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, " ".join(rest.split())))
    return found


def arguments(stage: list[Instruction], name: str) -> list[str]:
    return [rest for instruction, rest in stage if instruction == name]


def apt_packages(stage: list[Instruction]) -> set[str]:
    found = set()
    for line in arguments(stage, "RUN"):
        for command in line.split("&&"):
            words = shlex.split(command)
            if "apt-get" in words and "install" in words:
                found |= {word for word in words[words.index("install") + 1 :] if not word.startswith("-")}
    return found


def copied_from_context(image: str) -> set[str]:
    found: set[str] = set()
    for stage in stages(image):
        for line in arguments(stage, "COPY"):
            words = shlex.split(line)
            if not words[0].startswith("--from"):
                found |= set(words[:-1])
    return found


def extra_requirements(extra: str) -> list[Requirement]:
    """What `pip install .[extra]` asks for by name, with our own extras resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == canonicalize_name(project["name"]):
            for nested in requirement.extras:
                found += extra_requirements(nested)
        else:
            found.append(requirement)
    return found


def closure(extra: str) -> set[str]:
    """Names of all distributions the extra brings, by the metadata of those installed here."""
    found: set[str] = set()
    pending = [(requirement, "") for requirement in extra_requirements(extra)]
    seen = set()
    while pending:
        requirement, for_extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": for_extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                pending += [(Requirement(text), wanted) for text in metadata.requires(name) or []]
    return found


# ---- Dockerfiles ----


@pytest.mark.parametrize("image", IMAGES)
def test_the_final_stage_starts_from_the_slim_image_again(image: str) -> None:
    head, builder, final = stages(image)
    assert head == [("ARG", "PYTHON_IMAGE=python:3.11-slim")]
    assert builder[0] == ("FROM", "${PYTHON_IMAGE} AS builder")
    assert final[0] == ("FROM", "${PYTHON_IMAGE}")


@pytest.mark.parametrize("image", IMAGES)
def test_the_compiler_stays_in_the_builder(image: str) -> None:
    _, builder, final = stages(image)
    assert apt_packages(builder) == {"g++"}
    # implicit's wheel wants the system's OpenMP; nothing in the service does.
    assert apt_packages(final) == ({"libgomp1"} if image == "trainer" else set())
    assert not any("--from" in line for line in arguments(final, "COPY"))


@pytest.mark.parametrize("image", IMAGES)
def test_wheels_are_built_for_every_cpu_and_at_the_tested_versions(image: str) -> None:
    _, builder, _ = stages(image)
    names = [line.split("pip wheel")[0] if "pip wheel" in line else line for _, line in builder]
    wheel = next(index for index, (_, line) in enumerate(builder) if "pip wheel" in line)
    assert names.index("HNSWLIB_NO_NATIVE=1") < wheel
    assert "--constraint constraints.txt" in builder[wheel][1]


@pytest.mark.parametrize(("image", "extras"), IMAGES.items())
def test_an_image_installs_its_own_extras_from_the_wheels_alone(image: str, extras: str) -> None:
    _, builder, final = stages(image)
    (wheel,) = (line for line in arguments(builder, "RUN") if "pip wheel" in line)
    (install,) = (line for line in arguments(final, "RUN") if "pip install" in line)
    assert f".[{extras}]" in shlex.split(wheel)
    assert f"tandem-recommender[{extras}]" in shlex.split(install)
    assert "--no-index" in shlex.split(install)


@pytest.mark.parametrize("image", IMAGES)
def test_the_user_is_a_number_and_the_one_the_chart_runs_as(image: str) -> None:
    _, _, final = stages(image)
    (user,) = arguments(final, "USER")
    uid, gid = map(int, user.split(":"))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    context = values["podSecurityContext"]
    assert (uid, gid) == (context["runAsUser"], context["runAsGroup"])
    assert uid > 0
    # Nothing is installed or written after the switch.
    after = final[[name for name, _ in final].index("USER") + 1 :]
    assert {name for name, _ in after} <= {"WORKDIR", "EXPOSE", "CMD"}


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_is_all_that_the_ignore_file_lets_in(image: str) -> None:
    lines = (DOCKER / f"{image}.Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert copied_from_context(image) == allowed
    assert [name for name in sorted(allowed) if not (ROOT / name).exists()] == []
    excluded_again = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert not any(fnmatch.fnmatch(name, rule) for name in allowed for rule in excluded_again)


def test_the_serving_extra_brings_nothing_of_training() -> None:
    names = closure("serving")
    assert {"grpcio", "numpy", "onnxruntime", "hnswlib", "pydantic-core"} <= names  # the walk is deep enough
    assert names & TRAINING_ONLY == set()
    assert closure("training") >= TRAINING_ONLY  # and would have found them


# ---- Compose ----


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def config(service: str) -> dict[str, Any]:
    return tomllib.loads((DOCKER / "config" / f"{service}.toml").read_text())


def test_compose_starts_the_three_processes_and_offers_the_rest_by_profile(compose: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {
        "retrieval": None,
        "ranking": None,
        "writer": None,
        "valkey": ["redis"],
        "prometheus": ["signals"],
        "grafana": ["signals"],
        "trainer": ["train"],
    }


@pytest.mark.parametrize("service", HEALTH_NAMES)
def test_a_composed_service_is_what_its_config_says(compose: dict[str, Any], service: str) -> None:
    spec, toml = compose["services"][service], config(service)
    assert " ".join(spec["command"]) == f"python -m {MODULES[service]} --config /etc/tandem/{service}.toml"
    assert spec["ports"] == [f"127.0.0.1:{toml['port']}:{toml['port']}"]
    assert spec["healthcheck"]["test"][-2:] == [str(toml["port"]), HEALTH_NAMES[service]]
    assert float(spec["stop_grace_period"].removesuffix("s")) > toml["drain_s"] + toml["grace_s"]
    environment = dict(spec["environment"])
    assert environment.pop(f"TANDEM_{service.upper()}_METRICS_PORT") == METRICS[service]
    # A VACUUM may not fit into /tmp.
    assert environment.pop("SQLITE_TMPDIR", "") == ("/var/lib/tandem" if service == "writer" else "")
    assert environment == {f"TANDEM_{service.upper()}_STORE": f"${{TANDEM_STORE:-{toml['store']}}}"}
    assert "bundles:/bundles:ro" in spec["volumes"]
    assert toml["registry"] == "/bundles"
    assert f"store:{Path(toml['store'].removeprefix('sqlite:///')).parent}" in spec["volumes"]


def test_ranking_finds_retrieval_and_its_policy_in_compose(compose: dict[str, Any]) -> None:
    ranking = config("ranking")
    assert ranking["retrieval_target"] == f"dns:///retrieval:{config('retrieval')['port']}"
    assert "retrieval" in compose["services"]
    assert (DOCKER / "config" / Path(ranking["policy_file"]).name).is_file()


@pytest.mark.parametrize("service", HEALTH_NAMES)
def test_compose_and_chart_configure_the_same_keys(service: str) -> None:
    with helm_python.Chart.load(CHART) as chart:
        file = chart.render(name="shop")["tandem/templates/configmaps.yaml"]
    data = [document["data"] for document in yaml.safe_load_all(file) if document]
    (text,) = (texts[f"{service}.toml"] for texts in data if f"{service}.toml" in texts)
    assert list(config(service)) == list(tomllib.loads(text))


def test_composed_containers_of_ours_cannot_write_to_their_image(compose: dict[str, Any]) -> None:
    for name in ("retrieval", "ranking", "writer", "trainer"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "/tmp" in service["tmpfs"]  # noqa: S108 - inside the container
        dockerfile = (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).resolve()
        assert dockerfile.is_file()


def test_composed_prometheus_asks_every_process_and_grafana_asks_prometheus(compose: dict[str, Any]) -> None:
    deploy, services = ROOT / "deploy", compose["services"]
    scraped = yaml.safe_load((deploy / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    asked = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped}
    assert asked == {f"tandem-{name}": [f"{name}:{METRICS[name]}"] for name in HEALTH_NAMES}
    mounts = dict(each.rsplit(":", 2)[:2] for each in services["grafana"]["volumes"] if each.startswith("./"))
    assert all((deploy / here).exists() for here in mounts)
    provisioning = deploy / "grafana" / "provisioning"
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (port,) = services["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.rsplit(':', 1)[1]}"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tandem.yaml").read_text())["providers"]
    dashboard = mounts["./grafana/tandem.json"]
    assert str(Path(dashboard).parent) == provider["options"]["path"]
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    for name in ("prometheus", "grafana"):  # no password is asked for
        assert all(each.startswith("127.0.0.1:") for each in services[name]["ports"])
        assert services[name]["read_only"] is True


# ---- Health check of the compose file ----


@pytest.fixture(scope="module")
def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", DOCKER / "healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def health_port() -> Iterator[int]:
    """A server where "up" is SERVING, "down" is NOT_SERVING, and no other name is known."""
    servicer = health.HealthServicer()
    servicer.set("up", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("down", health_pb2.HealthCheckResponse.NOT_SERVING)
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait()


@pytest.mark.parametrize(("service", "said"), [("up", ""), ("down", "NOT_SERVING"), ("other", "NOT_FOUND")])
def test_the_health_check_passes_only_what_serves(
    healthcheck: ModuleType, health_port: int, service: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert healthcheck.main([str(health_port), service]) == (1 if said else 0)
    assert said in capsys.readouterr().err


def test_the_health_check_fails_where_nothing_listens(healthcheck: ModuleType) -> None:
    assert healthcheck.main(["1", "up"]) == 1
