"""What chart and compose hand to the processes, read by the code of the processes."""

import tomllib
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.grpc_process import LIVENESS, ServiceSettings
from tandem_core.policy import load_policies
from tandem_core.service_arguments import load_settings
from tandem_core.stores.open import open_store
from tandem_ranking.config import RankingSettings
from tandem_ranking.writer.config import WriterSettings
from tandem_retrieval.config import RetrievalSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
PORTS = {
    50051: retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name,
    50052: ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name,
    50053: events_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
}


SETTINGS: dict[str, type[ServiceSettings]] = {
    "retrieval": RetrievalSettings,
    "ranking": RankingSettings,
    "writer": WriterSettings,
}


def manifests(template: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    with helm_python.Chart.load(DEPLOY / "helm" / "tandem") as chart:
        text = chart.render(values or {}, name="shop")[f"tandem/templates/{template}.yaml"]
    return [document for document in yaml.safe_load_all(text) if document]


def chart_store_url() -> str:
    with helm_python.Chart.load(DEPLOY / "helm" / "tandem") as chart:
        return str(chart.values["store"]["url"])


def compose_store_url() -> str:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    text: str = compose["services"]["ranking"]["environment"]["TANDEM_RANKING_STORE"]
    return text.partition(":-")[2].removesuffix("}")


def chart_toml(service: str, values: dict[str, Any] | None = None) -> str:
    (text,) = (m["data"][f"{service}.toml"] for m in manifests("configmaps", values) if f"{service}.toml" in m["data"])
    return str(text)


def compose_toml(service: str) -> str:
    return (DEPLOY / "docker" / "config" / f"{service}.toml").read_text()


@pytest.mark.parametrize("service", SETTINGS)
@pytest.mark.parametrize("source", [chart_toml, compose_toml])
def test_a_service_accepts_its_config(service: str, source: Any) -> None:
    values = tomllib.loads(source(service))
    settings = load_settings(SETTINGS[service], values, "test")  # refuses unknown keys
    assert settings.model_dump(mode="json", include=set(values)) == values


PLACES: dict[str, Any] = {
    "store": {
        "url": "redis://valkey:6379/0",
        "passwordSecret": {"name": "valkey"},
        "suppressionKeySecret": {"name": "key"},
    },
    "bundles": {"s3": {"url": "s3://models/shop"}},
    "metrics": {"enabled": True},
    "tracing": {"otlpEndpoint": "http://collector:4318/v1/traces"},
    "retrieval": {"config": {"adminPort": 50060}},
    "ranking": {"config": {"adminPort": 50060}, "decisions": {"enabled": True}},
}
LOCKS: dict[str, Any] = {
    "tls": {"enabled": True, "secretName": "tls", "clientAuth": True, "serverName": "tandem.internal"},
    "tokens": {"existingSecret": "tokens"},
    "retrieval": {"config": {"ratePerSecond": 5}},
    "ranking": {"config": {"ratePerSecond": 0.5}},
    "writer": {"config": {"ratePerSecond": 5}},
}


@pytest.mark.parametrize("values", [PLACES, LOCKS], ids=["places", "locks"])
@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_knows_every_key_that_the_chart_can_render(service: str, values: dict[str, Any]) -> None:
    rendered = tomllib.loads(chart_toml(service, values))
    settings = load_settings(SETTINGS[service], rendered, "test")  # refuses unknown keys
    for key, value in settings.model_dump(mode="json", include=set(rendered)).items():
        # A Path has swallowed a slash of the bucket's URL, which the registry knows.
        assert value == (rendered[key].replace("s3://", "s3:/") if key == "registry" else rendered[key]), key


def test_a_store_from_a_secret_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_RANKING_STORE", "redis://valkey:6379/0")
    values = tomllib.loads(chart_toml("ranking"))
    del values["store"]
    assert load_settings(RankingSettings, values, "test").store == "redis://valkey:6379/0"


@pytest.mark.parametrize("url", [chart_store_url, compose_store_url])
def test_the_default_store_lies_on_the_mounted_volume(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []
    monkeypatch.setattr("tandem_core.stores.open.SqliteStore", paths.append)
    open_store(url())
    # With one slash less this would be a file below the working directory, lost with the container.
    assert paths == [Path("/var/lib/tandem/store.db")]


def test_the_default_policies_are_read(tmp_path: Path) -> None:
    (text,) = (m["data"]["policy.toml"] for m in manifests("configmaps") if "policy.toml" in m["data"])
    file = tmp_path / "policy.toml"
    file.write_text(text)
    assert load_policies(file) == load_policies(DEPLOY / "docker" / "config" / "policy.toml") == load_policies(None)


def test_probes_ask_for_names_that_the_services_answer_to() -> None:
    containers = [c for m in manifests("deployments") for c in m["spec"]["template"]["spec"]["containers"]]
    probes = [container["readinessProbe"]["grpc"] for container in containers]
    assert {probe["port"]: probe["service"] for probe in probes} == PORTS
    assert {container["livenessProbe"]["grpc"]["service"] for container in containers} == {LIVENESS}
