"""What the chart's options render: writer, workers and Envoy, S3, TLS, tokens, metrics, network, ways in."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tandem.catalog.v1 import catalog_pb2
from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "tandem"
GOLDEN = Path(__file__).parent / "golden"

Values = dict[str, Any]
Rendered = dict[tuple[str, str], dict[str, Any]]  # by kind and component
Render = Callable[..., Rendered]

REDIS: Values = {"store": {"url": "redis://valkey:6379/0"}}
ENVOY: Values = REDIS | {"envoy": {"enabled": True}}
TLS: Values = {"tls": {"enabled": True, "secretName": "tandem-tls", "serverName": "tandem.internal"}}
S3: Values = {"bundles": {"s3": {"url": "s3://models/shop"}}}
# Typical installations, kept as files: their diff is what a change of the chart does.
TYPICAL: dict[str, Values] = {
    "one-host": {"trainer": {"enabled": True, "dataClaim": "tables"}},
    "replicated": REDIS | S3 | {
        "retrieval": {"replicas": 3, "autoscaling": {"enabled": True}},
        "ranking": {"replicas": 3},
        "metrics": {"enabled": True, "serviceMonitor": {"enabled": True}},
    },
    "envoy": ENVOY | {
        "retrieval": {"replicas": 2, "resources": {"limits": {"cpu": 4, "memory": "2Gi"}}},
        "ranking": {"replicas": 2},
        "grpcRoute": {"enabled": True, "gateway": {"name": "outside"}, "hostnames": ["shop.example.com"]},
    },
    "locked": REDIS | TLS | {
        "tokens": {"existingSecret": "tandem-tokens"},
        "store": REDIS["store"] | {"passwordSecret": {"name": "valkey"}},
        "networkPolicy": {"enabled": True},
        "ranking": {"replicas": 2, "decisions": {"enabled": True}},
        "retrieval": {"replicas": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def render(chart: helm_python.Chart) -> Render:
    """render(values, release="shop") -> manifests by kind and component."""

    def rendered(values: Values, release: str = "shop") -> Rendered:
        files = chart.render(values, name=release, namespace="prod")
        texts = (text for name, text in files.items() if name.endswith(".yaml"))
        found = [part for text in texts for part in yaml.safe_load_all(text) if part]
        return {(part["kind"], part["metadata"]["labels"]["app.kubernetes.io/component"]): part for part in found}

    return rendered


def pod(manifests: Rendered, component: str) -> dict[str, Any]:
    spec = manifests["Deployment", component]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(manifests: Rendered, name: str) -> dict[str, Any]:
    component = "ranking" if name == "writer" else name
    (found,) = (each for each in pod(manifests, component)["containers"] if each["name"] == name)
    assert isinstance(found, dict)
    return found


def toml(manifests: Rendered, name: str) -> dict[str, Any]:
    component = "ranking" if name == "writer" else name
    return tomllib.loads(manifests["ConfigMap", component]["data"][f"{name}.toml"])


# ---- Golden files ----


@pytest.mark.parametrize("name", TYPICAL)
def test_typical_installations_render_what_was_reviewed(chart: helm_python.Chart, name: str) -> None:
    files = chart.render(TYPICAL[name], name="shop", namespace="prod")
    files = {file: text.strip() for file, text in sorted(files.items()) if text.strip()}
    notes = "tandem/templates/NOTES.txt"
    files[notes] = "".join(f"# {line}\n" for line in files[notes].splitlines()).strip()  # so that the file is YAML
    parts = [f"---\n# {file}\n{text}\n" for file, text in files.items()]
    text = "".join(parts)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("TANDEM_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text, "look at the difference; if it is meant: make golden"


# ---- Workers and Envoy ----


@pytest.mark.parametrize(
    ("cpu", "workers"), [("1", 1), ("2", 2), (3, 3), ("2500m", 2), ("500m", 1), ("1.5", 1), (None, 1), ("200", 64)]
)
def test_behind_envoy_there_is_a_worker_for_each_cpu_of_the_limit(render: Render, cpu: Any, workers: int) -> None:
    limits = {"memory": "2Gi"} | ({"cpu": cpu} if cpu is not None else {})
    manifests = render(ENVOY | {"retrieval": {"resources": {"limits": limits}}})
    assert toml(manifests, "retrieval")["workers"] == workers
    assert toml(manifests, "ranking")["workers"] == 1  # has no limit
    ports = [50051 + k for k in range(workers)]
    assert [port["containerPort"] for port in container(manifests, "retrieval")["ports"]] == ports
    assert [port["port"] for port in manifests["Service", "retrieval"]["spec"]["ports"]] == ports
    assert endpoints(manifests)["retrieval"] == [("shop-tandem-retrieval", port) for port in ports]


def test_without_envoy_a_pod_has_one_worker_however_many_cpus_it_may_use(render: Render) -> None:
    manifests = render({"retrieval": {"resources": {"limits": {"cpu": 4}}}})
    assert toml(manifests, "retrieval")["workers"] == 1
    assert not any(component == "envoy" for _, component in manifests)


def endpoints(manifests: Rendered) -> dict[str, list[tuple[str, int]]]:
    """Where Envoy leads to, by its listener's name; each listener has a cluster of the same name."""
    config = yaml.safe_load(manifests["ConfigMap", "envoy"]["data"]["envoy.yaml"])["static_resources"]
    found = {}
    for cluster in config["clusters"]:
        (place,) = cluster["load_assignment"]["endpoints"]
        addresses = [each["endpoint"]["address"]["socket_address"] for each in place["lb_endpoints"]]
        found[cluster["name"]] = [(address["address"], address["port_value"]) for address in addresses]
    return found


def test_envoy_checks_health_and_sends_reads_again_elsewhere_but_no_write_that_was_received(render: Render) -> None:
    manifests = render(ENVOY)
    config = yaml.safe_load(manifests["ConfigMap", "envoy"]["data"]["envoy.yaml"])["static_resources"]
    checks = {
        cluster["name"]: cluster["health_checks"][0]["grpc_health_check"]["service_name"]
        for cluster in config["clusters"]
        if cluster["name"] != "admin"
    }
    assert checks == {
        name: container(manifests, name)["readinessProbe"]["grpc"]["service"]
        for name in ("retrieval", "ranking", "writer")
    }
    interval = float(config["clusters"][0]["health_checks"][0]["interval"].removesuffix("s"))
    assert all(toml(manifests, name)["drain_s"] > interval for name in checks)
    for listener in config["listeners"]:
        if listener["name"] not in checks:
            continue
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (route,) = (r for r in manager["route_config"]["virtual_hosts"][0]["routes"] if "route" in r)
        policy = route["route"]["retry_policy"]
        assert ("reset" in policy["retry_on"]) is (listener["name"] != "writer")
        assert policy["retry_host_predicate"][0]["name"] == "envoy.retry_host_predicates.previous_hosts"


@pytest.mark.parametrize("client_auth", [False, True])
def test_with_tls_envoy_speaks_it_on_both_sides_with_files_that_are_read_again(
    render: Render, client_auth: bool
) -> None:
    manifests = render(ENVOY | {"tls": TLS["tls"] | {"clientAuth": client_auth}})
    data = manifests["ConfigMap", "envoy"]["data"]
    config = yaml.safe_load(data["envoy.yaml"])["static_resources"]
    pair, authority = (f"/etc/envoy/tls-{name}.yaml" for name in ("pair", "authority"))
    for listener in config["listeners"]:
        (chain,) = listener["filter_chains"]
        if listener["name"] == "ready":  # probes of the node and Prometheus
            assert "transport_socket" not in chain
            continue
        context = chain["transport_socket"]["typed_config"]
        assert context["require_client_certificate"] is client_auth
        assert (authority in json.dumps(context)) is client_auth
        assert pair in json.dumps(context)
    for cluster in config["clusters"]:
        if cluster["name"] == "admin":
            continue
        context = cluster["transport_socket"]["typed_config"]
        assert context["sni"] == "tandem.internal"
        checked = context["common_tls_context"]["combined_validation_context"]
        (name,) = checked["default_validation_context"]["match_typed_subject_alt_names"]
        assert name == {"san_type": "DNS", "matcher": {"exact": "tandem.internal"}}
        assert authority in json.dumps(checked)
        assert (pair in json.dumps(context)) is client_auth
    folder = "/etc/tandem-tls"
    mounted = {mount["mountPath"] for mount in container(manifests, "envoy")["volumeMounts"]}
    assert {folder, "/etc/envoy"} <= mounted
    for name in ("tls-pair.yaml", "tls-authority.yaml"):
        assert f"watched_directory: {{ path: {folder} }}" in data[name]
    ranking = toml(manifests, "ranking")
    assert ranking["retrieval_target"] == "dns:///shop-tandem-envoy:50051"
    assert ranking["retrieval_tls_name"] == "tandem.internal"
    assert {port["appProtocol"] for port in manifests["Service", "envoy"]["spec"]["ports"]} == {"https"}


def test_with_envoy_ranking_calls_retrieval_through_it(render: Render) -> None:
    manifests = render(ENVOY)
    assert toml(manifests, "ranking")["retrieval_target"] == "dns:///shop-tandem-envoy:50051"
    service = manifests["Service", "envoy"]["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == {
        "retrieval": 50051,
        "ranking": 50052,
        "writer": 50053,
    }
    assert {port["name"] for port in container(manifests, "envoy")["ports"]} > {
        p["targetPort"] for p in service["ports"]
    }


# ---- Registry, store, Secrets ----


def test_a_registry_on_s3_needs_no_volume(render: Render) -> None:
    s3 = {"url": "s3://models/shop", "endpoint": "http://minio:9000", "region": "eu-1", "existingSecret": "keys"}
    manifests = render({"bundles": {"s3": s3}, "trainer": {"enabled": True, "dataClaim": "tables"}})
    assert ("PersistentVolumeClaim", "bundles") not in manifests
    trainer = manifests["CronJob", "trainer"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    for part in (container(manifests, "retrieval"), container(manifests, "ranking"), trainer):
        env = {entry["name"]: entry for entry in part["env"]}
        assert env["AWS_ENDPOINT_URL"]["value"] == "http://minio:9000"
        assert env["AWS_DEFAULT_REGION"]["value"] == "eu-1"
        assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {
            "name": "keys",
            "key": "AWS_SECRET_ACCESS_KEY",
        }
        assert "/bundles" not in {mount["mountPath"] for mount in part["volumeMounts"]}
    assert trainer["args"][-2:] == ["--registry", "s3://models/shop"]
    config = toml(manifests, "retrieval")
    assert config["registry"] == "s3://models/shop"
    assert config["registry_cache"] in {m["mountPath"] for m in container(manifests, "retrieval")["volumeMounts"]}
    # Without a Secret the role of the service account speaks.
    assert not any("AWS" in entry["name"] for entry in container(render(S3), "ranking")["env"])


def test_files_of_the_store_are_mounted_where_its_url_says(render: Render) -> None:
    store = REDIS["store"] | {"passwordSecret": {"name": "valkey", "key": "pw"}, "suppressionKeySecret": {"name": "k"}}
    manifests = render({"store": store})
    for name in ("retrieval", "ranking", "writer"):
        url = toml(manifests, name)["store"]
        files = [option.partition("=")[2] for option in url.partition("?")[2].split("&")]
        volume = next(v for v in pod(manifests, "ranking")["volumes"] if v["name"] == "store-files")
        items = [source["secret"]["items"][0]["path"] for source in volume["projected"]["sources"]]
        (mount,) = (m for m in container(manifests, name)["volumeMounts"] if m["name"] == "store-files")
        assert files == [f"{mount['mountPath']}/{item}" for item in items]


def test_tls_and_tokens_are_files_from_secrets_and_the_probes_speak_tls(render: Render) -> None:
    values = REDIS | {"tls": TLS["tls"] | {"clientAuth": True}, "tokens": {"existingSecret": "tandem-tokens"}}
    manifests = render(values)
    for name in ("retrieval", "ranking", "writer"):
        part = container(manifests, name)
        mounts = {mount["mountPath"] for mount in part["volumeMounts"]}
        config = toml(manifests, name)
        named = [config[key] for key in config if key.startswith(("tls_", "tokens_"))]
        assert len(named) == 4
        assert {str(Path(file).parent) for file in named} <= mounts
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            command = part[probe]["exec"]["command"]
            assert command[:3] == ["python", "/opt/tandem/healthcheck.py", str(config["port"])]
            assert {"--tls-name=tandem.internal", "--ca=/etc/tandem-tls/ca.crt"} < set(command)
    ranking = toml(manifests, "ranking")
    assert ranking["retrieval_tls_name"] == "tandem.internal"
    assert Path(ranking["retrieval_token_file"]).name == "retrieval-token"
    (secret,) = (v["secret"] for v in pod(manifests, "retrieval")["volumes"] if v["name"] == "tokens")
    assert [item["path"] for item in secret["items"]] == ["tokens.toml"]  # ranking's own token is none of retrieval's


def test_the_admin_port_is_on_no_service_and_in_no_network_policy(render: Render) -> None:
    manifests = render(REDIS | {"ranking": {"config": {"adminPort": 50060}}, "networkPolicy": {"enabled": True}})
    assert toml(manifests, "ranking")["admin_port"] == 50060
    for (kind, _), manifest in manifests.items():
        assert kind == "ConfigMap" or "50060" not in yaml.safe_dump(manifest)


def test_writer_and_ranking_share_the_decision_records_of_their_pod(render: Render) -> None:
    manifests = render({"ranking": {"decisions": {"enabled": True, "sample": 0.5, "keepHours": 6}}})
    assert {toml(manifests, name)["decisions"] for name in ("ranking", "writer")} == {"/var/lib/tandem-decisions"}
    assert toml(manifests, "ranking")["decisions_keep_hours"] == 6
    for name in ("ranking", "writer"):
        assert "/var/lib/tandem-decisions" in {m["mountPath"] for m in container(manifests, name)["volumeMounts"]}
    assert "decisions" not in toml(manifests, "retrieval")


# ---- Signals ----


def test_metrics_are_scraped_on_a_port_of_their_own_where_liveness_is_asked_too(render: Render) -> None:
    manifests = render({"metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "labels": {"release": "p"}}}})
    for name in ("retrieval", "ranking"):
        monitor, service = manifests["ServiceMonitor", name], manifests["Service", name]
        assert monitor["metadata"]["labels"]["release"] == "p"
        selector = monitor["spec"]["selector"]["matchLabels"]
        assert selector.items() <= service["metadata"]["labels"].items()
        scraped = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
        assert scraped == {p["name"] for p in service["spec"]["ports"] if p["name"].startswith("metrics")}
        assert toml(manifests, name)["metrics_port"] == 9464
        assert container(manifests, name)["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_traces_go_where_the_values_say(render: Render) -> None:
    manifests = render({"tracing": {"otlpEndpoint": "http://collector:4318/v1/traces", "ratio": 0.5}})
    for name in ("retrieval", "ranking"):
        assert toml(manifests, name)["otlp_endpoint"] == "http://collector:4318/v1/traces"
        assert toml(manifests, name)["trace_ratio"] == 0.5


# ---- Network ----


def allowed(policy: dict[str, Any], direction: str) -> dict[int, list[str]]:
    """Port -> components, or "other", of a network policy's rules."""
    found: dict[int, list[str]] = {}
    for rule in policy["spec"][direction]:
        peers = [
            peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component", "other")
            for peer in rule["from" if direction == "ingress" else "to"]
        ]
        for port in rule.get("ports", [{"port": 0}]):
            found.setdefault(port["port"], []).extend(peers)
    return found


def test_the_network_lets_ranking_alone_reach_retrieval(render: Render) -> None:
    values = REDIS | {"metrics": {"enabled": True}, "trainer": {"enabled": True, "dataClaim": "tables"}}
    values |= {"networkPolicy": {"enabled": True, "egress": [{"to": [{"podSelector": {}}], "ports": [6379]}]}}
    manifests = render(values)
    assert allowed(manifests["NetworkPolicy", "retrieval"], "ingress") == {50051: ["ranking"], 9464: ["other"]}
    assert allowed(manifests["NetworkPolicy", "retrieval"], "egress") == {53: ["other", "other"], 6379: ["other"]}
    ranking = manifests["NetworkPolicy", "ranking"]
    assert allowed(ranking, "ingress") == {50052: ["other"], 50053: ["other"], 9464: ["other"], 9465: ["other"]}
    assert allowed(ranking, "egress") == {53: ["other", "other"], 50051: ["retrieval"], 6379: ["other"]}
    assert allowed(manifests["NetworkPolicy", "trainer"], "ingress") == {}


def test_behind_envoy_nobody_else_reaches_the_pods(render: Render) -> None:
    manifests = render(ENVOY | {"networkPolicy": {"enabled": True}})
    assert allowed(manifests["NetworkPolicy", "retrieval"], "ingress") == {50051: ["envoy"]}
    assert allowed(manifests["NetworkPolicy", "ranking"], "ingress") == {50052: ["envoy"], 50053: ["envoy"]}
    assert allowed(manifests["NetworkPolicy", "ranking"], "egress")[50051] == ["envoy"]
    assert allowed(manifests["NetworkPolicy", "envoy"], "ingress") == {
        50052: ["other"],
        50053: ["other"],
        50051: ["ranking"],
        8080: ["other"],
    }


@pytest.mark.parametrize("behind", [REDIS, ENVOY], ids=["ranking", "envoy"])
def test_from_outside_ranking_and_the_writer_are_reached_and_nothing_else(render: Render, behind: Values) -> None:
    outside = {
        "ingress": {"enabled": True, "host": "shop.example.com", "tlsSecretName": "certificate"},
        "grpcRoute": {"enabled": True, "gateway": {"name": "outside"}, "hostnames": ["shop.example.com"]},
    }
    manifests = render(behind | outside)
    ranking = ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name
    events = events_pb2.DESCRIPTOR.services_by_name["EventService"].full_name
    catalog = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name
    ingress = manifests["Ingress", "ranking"]["spec"]
    paths = {p["path"]: p["backend"]["service"]["port"]["number"] for p in ingress["rules"][0]["http"]["paths"]}
    assert paths == {f"/{ranking}/": 50052, f"/{events}/": 50053, f"/{catalog}/": 50053}
    assert ingress["tls"] == [{"hosts": ["shop.example.com"], "secretName": "certificate"}]
    rules = manifests["GRPCRoute", "ranking"]["spec"]["rules"]
    assert {r["matches"][0]["method"]["service"]: r["backendRefs"][0]["port"] for r in rules} == {
        ranking: 50052,
        events: 50053,
        catalog: 50053,
    }


# ---- A release per catalogue ----


def test_releases_side_by_side_share_no_name_and_select_no_pod_of_each_other(render: Render) -> None:
    values = TYPICAL["envoy"] | {"networkPolicy": {"enabled": True}}
    first, second = render(values, "books"), render(values, "films")
    names = [{(m["kind"], m["metadata"]["name"]) for m in each.values()} for each in (first, second)]
    assert not names[0] & names[1]
    labels = [m["spec"]["template"]["metadata"]["labels"] for (kind, _), m in second.items() if kind == "Deployment"]
    selectors = [
        selector
        for manifest in first.values()
        for selector in found_selectors(manifest.get("spec", {}))
        if "app.kubernetes.io/name" in selector
    ]
    assert len(selectors) > 10
    assert not any(selector.items() <= pod.items() for selector in selectors for pod in labels)
    assert "films" not in yaml.safe_dump(list(first.values()))


def found_selectors(node: Any) -> Iterator[dict[str, str]]:
    """Every matchLabels and every Service's selector below a node."""
    if isinstance(node, dict):
        for key, child in node.items():
            if key == "matchLabels" or (key == "selector" and "matchLabels" not in child):
                yield child
            else:
                yield from found_selectors(child)
    elif isinstance(node, list):
        for child in node:
            yield from found_selectors(child)


# ---- Refusals ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retrieval": {"config": {"workers": 2}}}, r"DNS carries no ports.*envoy\.enabled: true"),
        (ENVOY | {"ranking": {"config": {"workers": 2}}}, r"use a port twice: \[50052,50053,50053\]"),
        (ENVOY | {"envoy": {"enabled": True, "readyPort": 50051}}, "listen on a port twice"),
        (ENVOY | {"writer": {"config": {"ratePerSecond": 5}}}, r"writer\.config\.ratePerSecond without tokens"),
        ({"metrics": {"enabled": True, "port": 50051}}, "retrieval pod would use a port twice"),
        ({"ranking": {"config": {"graceSeconds": 0.1}}}, "below ranking.config.retrievalTimeoutMs"),
        ({"tls": {"enabled": True}}, "needs tls.secretName"),
        ({"tls": {"enabled": True, "secretName": "x"}}, "needs tls.serverName"),
        ({"tls": {"clientAuth": True}}, "tls.clientAuth needs tls.enabled"),
        (
            TLS | {"ingress": {"enabled": True, "host": "a.b", "tlsSecretName": "c"}},
            "end TLS at one place",
        ),
        ({"ingress": {"enabled": True, "host": "a.b"}}, "needs ingress.host and ingress.tlsSecretName"),
        ({"grpcRoute": {"enabled": True, "hostnames": ["a.b"]}}, "needs grpcRoute.gateway.name"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "needs metrics.enabled"),
        (S3 | {"bundles": {**S3["bundles"], "existingClaim": "x"}}, "two registries"),
        ({"bundles": {"s3": {"existingSecret": "x"}}}, "needs bundles.s3.url"),
        ({"store": {"passwordSecret": {"name": "x"}}}, "belongs to a Redis address"),
        (
            {"store": {"existingSecret": {"name": "x"}, "suppressionKeySecret": {"name": "y"}}},
            "use store.url with store.passwordSecret",
        ),
        (
            REDIS | {"ranking": {"replicas": 2, "decisions": {"enabled": True, "existingClaim": "x"}}},
            "for one ranking pod",
        ),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_clearly(render: Render, values: Values, message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=message):
        render(values)
