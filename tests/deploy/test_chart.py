"""The Helm chart: rendered by Helm's own engine and checked against the Kubernetes schemas.

No API server runs here: these tests say that the chart renders what we mean, not that a cluster runs it.
"""

import copy
import json
import math
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "tandem"
SERVICES = ("retrieval", "ranking")
OLDEST, NEWEST = "1.27", kubernetes_validate.utils.major_minor(kubernetes_validate.latest_version())

# What the services read: agreed with their config modules. `store` may come from the environment instead.
WRITER_KEYS = {
    "host", "port", "threads", "max_concurrent_rpcs", "max_queue_ms", "registry", "store", "bundle_poll_s", "drain_s",
    "grace_s", "max_connection_age_s", "reflection", "log_level",
}  # fmt: skip
SHARED_KEYS = WRITER_KEYS | {"workers"}
TOML_KEYS = {
    "retrieval": SHARED_KEYS,
    "ranking": SHARED_KEYS | {"retrieval_target", "retrieval_timeout_ms", "policy_file"},
    "writer": WRITER_KEYS,
}
PROCESSES = {"retrieval": "retrieval", "ranking": "ranking", "writer": "ranking"}  # each in the pods of its component
HEALTH_NAMES = {
    "retrieval": "tandem.retrieval.v1.RetrievalService",
    "ranking": "tandem.ranking.v1.RankingService",
    "writer": "tandem.events.v1.EventService",
}

Values = dict[str, Any]
Manifest = dict[str, Any]

REDIS: Values = {"store": {"url": "redis://valkey:6379/0"}}
SECRET: Values = {"store": {"existingSecret": {"name": "tandem-store", "key": "url"}}}
TRAINER: Values = {"trainer": {"enabled": True, "dataClaim": "tables"}}
SCALED: Values = {
    "retrieval": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 9}},
    "ranking": {"replicas": 4},
}
CASES: dict[str, Values] = {
    "defaults": {},
    "redis": REDIS,
    "secret": SECRET,
    "scaled": REDIS | SCALED,
    "trainer": TRAINER,
    "one node": {"singleNode": True, "bundles": {"accessMode": "ReadWriteOnce"}} | TRAINER,
    "everything": SECRET | {
        "nameOverride": "recommender",
        "image": {"repository": "registry.example.com/tandem", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccount": {"annotations": {"example.com/role": "reader"}},
        "bundles": {"existingClaim": "registry"},
        "retrieval": SCALED["retrieval"] | {"podAnnotations": {"example.com/team": "search"}},
        "ranking": SCALED["ranking"] | {
            "podDisruptionBudget": {"enabled": False},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "serving", "operator": "Exists", "effect": "NoSchedule"}],
            "resources": {"limits": {"cpu": 2, "memory": "4Gi"}},
        },
        "trainer": TRAINER["trainer"] | {"podAnnotations": {"example.com/team": "search"}},
    },
    "envoy": REDIS | {
        "envoy": {"enabled": True},
        "networkPolicy": {"enabled": True},
        "retrieval": {"resources": {"limits": {"cpu": "2500m", "memory": "2Gi"}}},
        "ingress": {"enabled": True, "host": "shop.example.com", "tlsSecretName": "shop-certificate"},
        "grpcRoute": {"enabled": True, "gateway": {"name": "outside"}, "hostnames": ["shop.example.com"]},
    },
    "locked": REDIS | {
        "store": REDIS["store"] | {
            "passwordSecret": {"name": "valkey"}, "suppressionKeySecret": {"name": "forgotten"},
        },
        "bundles": {"s3": {"url": "s3://models/shop", "endpoint": "http://minio:9000", "existingSecret": "s3"}},
        "tls": {"enabled": True, "secretName": "tandem-tls", "clientAuth": True, "serverName": "tandem.internal"},
        "tokens": {"existingSecret": "tandem-tokens"},
        "metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "tracing": {"otlpEndpoint": "http://collector:4318/v1/traces"},
        "networkPolicy": {
            "enabled": True,
            "callers": [{"namespaceSelector": {"matchLabels": {"team": "web"}}}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [6379, 9000]}],
        },
        "ranking": {"replicas": 2, "decisions": {"enabled": True}},
        "retrieval": {"replicas": 2},
    } | TRAINER,
    "own account and claims": {
        "serviceAccount": {"create": False, "name": "mine"},
        "bundles": {"existingClaim": "registry"},
        "store": {"sqlite": {"existingClaim": "events"}},
    },
}  # fmt: skip
CASES["locked, behind envoy"] = CASES["locked"] | {"envoy": {"enabled": True}}


def closed(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object that takes these keys alone; those without a schema of their own take any value."""
    keys = {name: properties.get(name, {}) for name in (required + " " + optional).split()}
    return {"type": "object", "properties": keys, "required": required.split(), "additionalProperties": False}


def manifest_schema(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = closed("name namespace labels", "annotations", name={"type": "string", "maxLength": 63})
    return closed("apiVersion kind metadata spec", metadata=metadata, spec=spec)


def listed(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": of}


TEXT, PORT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1, "maximum": 65535}
# What the chart uses of two APIs that are not Kubernetes' own, after their published references.
OTHERS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): manifest_schema(
        closed(
            "selector endpoints",
            selector=closed("matchLabels", matchLabels={"type": "object", "additionalProperties": TEXT}),
            endpoints=listed(closed("port", "path interval scheme", port=TEXT, path=TEXT, interval=TEXT)),
        )
    ),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): manifest_schema(
        closed(
            "parentRefs rules",
            "hostnames",
            parentRefs=listed(closed("name", "namespace sectionName", name=TEXT, namespace=TEXT, sectionName=TEXT)),
            hostnames=listed(TEXT),
            rules=listed(
                closed(
                    "matches backendRefs",
                    matches=listed(closed("method", method=closed("service", "method type", service=TEXT))),
                    backendRefs=listed(closed("name port", "weight", name=TEXT, port=PORT)),
                )
            ),
        )
    ),
}


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


def render(chart: helm_python.Chart, values: Values, release: str = "shop") -> list[Manifest]:
    files = chart.render(values, name=release, namespace="prod")
    return [
        document
        for name, text in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def component(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (manifest for manifest in of_kind(manifests, kind) if component(manifest) == name)
    return found


def pod_template(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else manifest["spec"]
    template: Manifest = spec["template"]
    return template


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "Deployment") + of_kind(manifests, "CronJob")


def containers(workload: Manifest) -> dict[str, dict[str, Any]]:
    return {container["name"]: container for container in pod_template(workload)["spec"]["containers"]}


def process(manifests: list[Manifest], name: str) -> dict[str, Any]:
    """The container of retrieval, ranking or writer."""
    return containers(one(manifests, "Deployment", PROCESSES[name]))[name]


def selected(selector: dict[str, str], manifests: list[Manifest]) -> list[str]:
    """The components whose pods carry all labels of the selector."""
    return [
        component(workload)
        for workload in workloads(manifests)
        if selector.items() <= pod_template(workload)["metadata"]["labels"].items()
    ]


def service_toml(manifests: list[Manifest], service: str) -> dict[str, Any]:
    return tomllib.loads(one(manifests, "ConfigMap", PROCESSES[service])["data"][f"{service}.toml"])


def backends(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Services and ports that an Ingress or a GRPCRoute leads to."""
    for rule in manifest["spec"]["rules"]:
        for path in rule.get("http", {}).get("paths", []):
            service = path["backend"]["service"]
            yield service["name"], service["port"]["number"]
        for reference in rule.get("backendRefs", []):
            yield reference["name"], reference["port"]


def merged(*parts: Values) -> Values:
    """A deep union; later parts win."""
    result: Values = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def set_at(path: str, value: object) -> Values:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def leaves(tree: Values, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


# ---- Well-formed ----


@cache  # many cases have the same manifests
def validated(manifest: str, version: str) -> None:
    """Raises for an unknown field, and for an API it has no schema of (its command line only warns of that)."""
    assert kubernetes_validate.validate(json.loads(manifest), version, strict=True) == version


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_every_manifest_is_valid_for_the_oldest_and_newest_kubernetes(
    chart: helm_python.Chart, case: str, version: str
) -> None:
    manifests = render(chart, CASES[case])
    for manifest in manifests:
        if schema := OTHERS.get((manifest["apiVersion"], manifest["kind"])):
            jsonschema.validate(manifest, schema)
            continue
        validated(json.dumps(manifest), version)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names))


def test_the_oldest_kubernetes_checked_is_the_oldest_the_chart_accepts(chart: helm_python.Chart) -> None:
    assert chart.metadata["kubeVersion"] == f">={OLDEST}.0-0"


def test_the_validation_itself_refuses_unknown_apis_and_fields(chart: helm_python.Chart) -> None:
    deployment = one(render(chart, {}), "Deployment", "ranking")
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(deployment | {"apiVersion": "apps/v7"}, NEWEST, strict=True)
    deployment["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_lint_has_nothing_to_say_but_the_missing_icon(case: str) -> None:
    report = helm_python.lint(CHART, CASES[case], strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


def test_the_cases_render_what_they_are_named_for(chart: helm_python.Chart) -> None:
    def kinds(case: str) -> set[str]:
        return {manifest["kind"] for manifest in render(chart, CASES[case])}

    always = {"Deployment", "Service", "ConfigMap"}
    common = always | {"ServiceAccount", "PersistentVolumeClaim", "PodDisruptionBudget"}
    assert kinds("defaults") == common
    assert kinds("scaled") == common | {"HorizontalPodAutoscaler"}
    assert kinds("trainer") == common | {"CronJob"}
    assert kinds("own account and claims") == always | {"PodDisruptionBudget"}


@pytest.mark.parametrize("case", CASES)
def test_what_manifests_refer_to_exists(chart: helm_python.Chart, case: str) -> None:
    values = chart.merge_values(CASES[case])
    manifests = render(chart, CASES[case])
    own = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    given = {values["bundles"]["existingClaim"], values["store"]["sqlite"]["existingClaim"], "tables"}
    for named in (*of_kind(manifests, "Ingress"), *of_kind(manifests, "GRPCRoute")):
        for name, port in backends(named):
            (service,) = (m for m in of_kind(manifests, "Service") if m["metadata"]["name"] == name)
            assert port in {entry["port"] for entry in service["spec"]["ports"]}
    for workload in workloads(manifests):
        spec = pod_template(workload)["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = [mount["name"] for container in containers(workload).values() for mount in container["volumeMounts"]]
        assert set(mounts) == volumes.keys()
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in own
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in own or claim in given
        account = ("ServiceAccount", spec["serviceAccountName"])
        assert account in own or not values["serviceAccount"]["create"]
    for autoscaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = autoscaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in own
        # A fixed number beside an autoscaler would reset it at every upgrade.
        assert "replicas" not in one(manifests, "Deployment", component(autoscaler))["spec"]


def test_the_longest_release_name_gives_legal_names(chart: helm_python.Chart) -> None:
    for manifest in render(chart, TRAINER, release="r" * 53):
        name = manifest["metadata"]["name"]
        assert len(name) <= (52 if manifest["kind"] == "CronJob" else 63)


# ---- Labels ----


@pytest.mark.parametrize("case", CASES)
def test_every_selector_picks_the_pods_of_its_own_component_alone(chart: helm_python.Chart, case: str) -> None:
    manifests = render(chart, CASES[case])
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert selected(spec["selector"]["matchLabels"], manifests) == [component(manifest)]
        if manifest["kind"] == "Service":
            assert selected(spec["selector"], manifests) == [component(manifest)]
        if manifest["kind"] == "Deployment":
            for constraint in pod_template(manifest)["spec"].get("topologySpreadConstraints", []):
                assert selected(constraint["labelSelector"]["matchLabels"], manifests) == [component(manifest)]


def test_two_releases_in_one_namespace_do_not_select_each_others_pods(chart: helm_python.Chart) -> None:
    mine, theirs = render(chart, {}, release="one"), render(chart, {}, release="two")
    for service in of_kind(mine, "Service"):
        assert selected(service["spec"]["selector"], theirs) == []


def test_every_object_carries_the_recommended_labels(chart: helm_python.Chart) -> None:
    for manifest in render(chart, CASES["everything"]):
        labels = manifest["metadata"]["labels"]
        for name in ("name", "instance", "component", "version", "part-of", "managed-by"):
            assert labels[f"app.kubernetes.io/{name}"]
        assert labels["app.kubernetes.io/name"] == "recommender"
        assert labels["helm.sh/chart"] == f"tandem-{chart.version}"


# ---- Configuration ----


@pytest.mark.parametrize("service", PROCESSES)
def test_the_toml_has_exactly_the_keys_the_service_reads(chart: helm_python.Chart, service: str) -> None:
    assert service_toml(render(chart, {}), service).keys() == TOML_KEYS[service]


def test_the_toml_says_what_the_values_say(chart: helm_python.Chart) -> None:
    config = {
        "port": 6000, "threads": 3, "maxConcurrentRpcs": 9, "maxQueueMs": 7.5, "bundlePollSeconds": 0.25,
        "adminPort": 6009, "drainSeconds": 1.5, "graceSeconds": 20, "maxConnectionAgeSeconds": 60, "ratePerSecond": 2.5,
        "rateBurst": 7, "reflection": True, "logLevel": "debug", "retrievalTimeoutMs": 75,
        "retrievalTarget": "dns:///other:1",
    }  # fmt: skip
    toml = service_toml(render(chart, merged(REDIS, {"ranking": {"config": config}})), "ranking")
    assert toml == {
        "host": "0.0.0.0",  # noqa: S104 - in a pod the network decides who gets in
        "port": 6000, "workers": 1, "threads": 3, "max_concurrent_rpcs": 9, "max_queue_ms": 7.5,
        "registry": "/bundles",
        "store": "redis://valkey:6379/0", "bundle_poll_s": 0.25, "admin_port": 6009, "drain_s": 1.5, "grace_s": 20,
        "max_connection_age_s": 60, "rate_per_s": 2.5, "rate_burst": 7, "reflection": True, "log_level": "debug",
        "retrieval_target": "dns:///other:1",
        "retrieval_timeout_ms": 75, "policy_file": "/etc/tandem/policy.toml",
    }  # fmt: skip
    # Whole numbers stay whole: a strict reader takes 6000.0 for no port.
    assert all(isinstance(toml[key], int) for key in ("port", "threads", "retrieval_timeout_ms"))


def test_texts_reach_their_files_unchanged(chart: helm_python.Chart) -> None:
    text = 'title = "a \\"b\\" & <c> {{ .Values }} ü"\n\n[placements.home]\n# tail\n'
    values = merged(TRAINER, {"ranking": {"policy": text}, "trainer": {"config": text}})
    manifests = render(chart, values)
    assert one(manifests, "ConfigMap", "ranking")["data"]["policy.toml"] == text
    assert one(manifests, "ConfigMap", "trainer")["data"]["train.toml"] == text


def test_the_default_policy_and_training_config_are_valid_toml(chart: helm_python.Chart) -> None:
    manifests = render(chart, TRAINER)
    tomllib.loads(one(manifests, "ConfigMap", "ranking")["data"]["policy.toml"])
    tomllib.loads(one(manifests, "ConfigMap", "trainer")["data"]["train.toml"])


@pytest.mark.parametrize("case", CASES)
def test_every_file_named_on_a_command_line_or_in_a_config_is_mounted(chart: helm_python.Chart, case: str) -> None:
    manifests = render(chart, CASES[case])
    for workload in workloads(manifests):
        name = component(workload)
        files = {f"/etc/tandem/{file}" for file in one(manifests, "ConfigMap", name)["data"]}
        for container in containers(workload).values():
            args = container["args"]
            option, folder = ("--config-path", "/etc/envoy/") if name == "envoy" else ("--config", "/etc/tandem/")
            assert args[args.index(option) + 1].replace(folder, "/etc/tandem/") in files
        if name == "ranking":
            assert service_toml(manifests, name)["policy_file"] in files


def test_the_processes_are_started_as_agreed(chart: helm_python.Chart) -> None:
    manifests = render(chart, TRAINER)
    lines = {
        name: " ".join(container["command"] + container["args"])
        for workload in workloads(manifests)
        for name, container in containers(workload).items()
    }
    assert lines == {
        "retrieval": "python -m tandem_retrieval --config /etc/tandem/retrieval.toml",
        "ranking": "python -m tandem_ranking --config /etc/tandem/ranking.toml",
        "writer": "python -m tandem_ranking.writer --config /etc/tandem/writer.toml",
        "trainer": "tandem train --config /etc/tandem/train.toml --data /data --registry /bundles",
    }


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        (set_at("retrieval.config.threads", 5), {"retrieval"}),
        (set_at("ranking.config.logLevel", "debug"), {"ranking"}),
        (set_at("writer.config.threads", 4), {"ranking"}),
        (set_at("ranking.policy", "[placements.home]\n"), {"ranking"}),
        (set_at("retrieval.config.port", 6000), {"retrieval", "ranking"}),
        (REDIS, {"retrieval", "ranking"}),
        (set_at("ranking.resources.limits.memory", "3Gi"), set()),
        (set_at("bundles.size", "30Gi"), set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # the same in every process
)
def test_the_checksum_changes_with_the_config_it_stands_for(
    chart: helm_python.Chart, change: Values, rolled: set[str]
) -> None:
    def checksums(values: Values) -> dict[str, str]:
        return {
            component(deployment): pod_template(deployment)["metadata"]["annotations"]["checksum/config"]
            for deployment in of_kind(render(chart, values), "Deployment")
        }

    before, after = checksums({}), checksums(change)
    assert {name for name in before if before[name] != after[name]} == rolled


# ---- Network ----


@pytest.mark.parametrize("name", PROCESSES)
def test_a_service_is_headless_and_leads_to_the_port_the_process_listens_on(
    chart: helm_python.Chart, name: str
) -> None:
    manifests = render(chart, set_at(f"{name}.config.port", 6001))
    spec = one(manifests, "Service", PROCESSES[name])["spec"]
    assert spec["clusterIP"] == "None"
    (container_port,) = process(manifests, name)["ports"]
    (port,) = (port for port in spec["ports"] if port["targetPort"] == container_port["name"])
    assert port["port"] == container_port["containerPort"] == service_toml(manifests, name)["port"] == 6001


def test_ranking_finds_the_retrieval_of_its_own_release(chart: helm_python.Chart) -> None:
    manifests = render(chart, set_at("retrieval.config.port", 6002))
    name = one(manifests, "Service", "retrieval")["metadata"]["name"]
    assert service_toml(manifests, "ranking")["retrieval_target"] == f"dns:///{name}:6002"


def test_kubernetes_adds_no_environment_that_reads_like_our_settings(chart: helm_python.Chart) -> None:
    # A Service "tandem-retrieval" with an address would set TANDEM_RETRIEVAL_PORT=tcp://...
    for workload in workloads(render(chart, TRAINER)):
        assert pod_template(workload)["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("service", PROCESSES)
def test_probes_ask_for_the_right_health_name_on_the_right_port(chart: helm_python.Chart, service: str) -> None:
    container = process(render(chart, set_at(f"{service}.config.port", 6003)), service)
    assert container["startupProbe"]["grpc"] == {"port": 6003, "service": "liveness"}
    assert container["livenessProbe"]["grpc"] == {"port": 6003, "service": "liveness"}
    assert container["readinessProbe"]["grpc"] == {"port": 6003, "service": HEALTH_NAMES[service]}


# ---- Life of a pod ----


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("drain", "grace", "margin"), [(5, 10, 10), (0.5, 7.2, 3), (0, 0.2, 1), (2.5, 2.5, 1)])
def test_kubernetes_waits_longer_than_draining_and_the_calls_in_flight_take(
    chart: helm_python.Chart, service: str, drain: float, grace: float, margin: int
) -> None:
    config = {"config": {"drainSeconds": drain, "graceSeconds": grace}}
    values = {"writer": {"config": {"drainSeconds": 0, "graceSeconds": 0}}, service: config}
    values[service]["terminationMarginSeconds"] = margin
    manifests = render(chart, values)
    toml = service_toml(manifests, service)
    seconds = pod_template(one(manifests, "Deployment", service))["spec"]["terminationGracePeriodSeconds"]
    assert (toml["drain_s"], toml["grace_s"]) == (drain, grace)
    # The admin port, where there is one, drains after the workers.
    assert seconds == math.ceil(2 * drain + grace) + margin


def test_kubernetes_waits_for_the_slower_of_ranking_and_writer(chart: helm_python.Chart) -> None:
    manifests = render(chart, set_at("writer.config.graceSeconds", 100))
    pods = {name: pod_template(one(manifests, "Deployment", name))["spec"] for name in SERVICES}
    assert {name: pod["terminationGracePeriodSeconds"] for name, pod in pods.items()} == {
        "retrieval": 30,
        "ranking": 120,
    }


@pytest.mark.parametrize("case", CASES)
def test_containers_run_without_root_and_cannot_write_to_their_image(chart: helm_python.Chart, case: str) -> None:
    for workload in workloads(render(chart, CASES[case])):
        pod = pod_template(workload)["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(workload).values():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
        assert "emptyDir" in next(volume for volume in pod["volumes"] if volume["name"] == "tmp")


def test_only_the_trainer_may_write_bundles(chart: helm_python.Chart) -> None:
    for workload in workloads(render(chart, TRAINER)):
        for name, container in containers(workload).items():
            mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
            assert mounts["/bundles"] is (name != "trainer")
            assert mounts["/etc/tandem"] is True
            assert mounts.get("/data", True) is True


def test_native_libraries_of_the_services_use_one_thread(chart: helm_python.Chart) -> None:
    manifests = render(chart, {})
    for name in PROCESSES:
        env = {entry["name"]: entry["value"] for entry in process(manifests, name)["env"]}
        assert env.pop("SQLITE_TMPDIR", "") == ("/var/lib/tandem" if name == "writer" else "")
        assert env == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def test_the_trainer_runs_once_at_a_time_and_only_when_asked_for(chart: helm_python.Chart) -> None:
    assert of_kind(render(chart, {}), "CronJob") == []
    (job,) = of_kind(render(chart, TRAINER), "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert pod_template(job)["spec"]["restartPolicy"] == "Never"


def test_images_are_named_by_tag_or_digest(chart: helm_python.Chart) -> None:
    def image(values: Values) -> str:
        (image,) = {process(render(chart, values), name)["image"] for name in PROCESSES}
        return str(image)

    digest = "sha256:" + "a" * 64
    assert image({}) == f"tandem-service:{chart.metadata['appVersion']}"
    assert image(set_at("image.tag", "1.2")) == "tandem-service:1.2"
    assert image({"image": {"tag": "1.2", "digest": digest}}) == f"tandem-service@{digest}"


# ---- Store and volumes ----


@pytest.mark.parametrize("service", PROCESSES)
def test_a_store_in_a_secret_reaches_the_process_by_reference_alone(chart: helm_python.Chart, service: str) -> None:
    manifests = render(chart, SECRET)
    env = {entry["name"]: entry for entry in process(manifests, service)["env"]}
    reference = env[f"TANDEM_{service.upper()}_STORE"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "tandem-store", "key": "url"}
    assert service_toml(manifests, service).keys() == TOML_KEYS[service] - {"store"}


def test_sqlite_is_one_volume_shared_by_two_pods_of_one_node(chart: helm_python.Chart) -> None:
    manifests = render(chart, TRAINER)
    claim = one(manifests, "PersistentVolumeClaim", "store")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    for deployment in of_kind(manifests, "Deployment"):
        spec = pod_template(deployment)["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for name, container in containers(deployment).items():
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert service_toml(manifests, name)["store"].startswith(f"sqlite:///{mounts['store']}/")
        (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        # Not the trainer's pods: one of those on another node would let the services part.
        (expression,) = term["labelSelector"]["matchExpressions"]
        assert expression["values"] == ["retrieval", "ranking"]
        labels = term["labelSelector"]["matchLabels"]
        assert set(selected(labels, manifests)) == {"retrieval", "ranking", "trainer"}
    assert "affinity" not in pod_template(one(manifests, "CronJob", "trainer"))["spec"]


@pytest.mark.parametrize("values", [REDIS, SECRET], ids=["url", "secret"])
def test_with_redis_the_pods_spread_and_mount_no_store(chart: helm_python.Chart, values: Values) -> None:
    manifests = render(chart, values)
    assert [component(claim) for claim in of_kind(manifests, "PersistentVolumeClaim")] == ["bundles"]
    for deployment in of_kind(manifests, "Deployment"):
        spec = pod_template(deployment)["spec"]
        assert "affinity" not in spec
        assert {constraint["topologyKey"] for constraint in spec["topologySpreadConstraints"]} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        assert "store" not in {volume["name"] for volume in spec["volumes"]}


def test_one_node_keeps_the_trainer_beside_the_services(chart: helm_python.Chart) -> None:
    for workload in workloads(render(chart, CASES["one node"])):
        assert "podAffinity" in pod_template(workload)["spec"]["affinity"]


def test_volumes_outlive_the_release(chart: helm_python.Chart) -> None:
    claims = of_kind(render(chart, {}), "PersistentVolumeClaim")
    assert len(claims) == 2
    for claim in claims:
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


# ---- Refusals ----


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "scale", [{"replicas": 2}, {"autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2}}], ids=str
)
def test_several_pods_without_redis_are_refused(chart: helm_python.Chart, service: str, scale: Values) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=rf"several pods need a Redis store: {service}\.") as caught:
        render(chart, {service: scale})
    assert "store.existingSecret.name" in str(caught.value)
    for store in (REDIS, SECRET):
        assert render(chart, merged(store, {service: scale}))


@pytest.mark.parametrize("store", [{}, REDIS], ids=["sqlite", "redis"])
def test_a_bundle_volume_for_one_node_is_refused_for_pods_of_several(chart: helm_python.Chart, store: Values) -> None:
    values = merged(store, set_at("bundles.accessMode", "ReadWriteOnce"))
    with pytest.raises(helm_python.HelmRenderError, match=r"several pods share the bundle volume: use ReadWriteMany"):
        render(chart, values)
    assert render(chart, merged(values, {"singleNode": True}))
    assert render(chart, merged(values, set_at("bundles.existingClaim", "registry")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (set_at("store.url", "redis://:secret@valkey:6379/0"), "put the URL into a Secret"),
        (set_at("store.url", "sqlite:///tmp/store.db"), "must lie on its volume"),
        (set_at("store.url", "sqlite:///var/lib/tandem/store.db"), "four slashes"),
        (set_at("store.url", "sqlite:////var/lib/tandem/../../x"), "must lie on its volume"),
        (set_at("store.url", "sqlite:////var/lib/tandem/.."), "must lie on its volume"),
        (set_at("trainer.enabled", True), "needs trainer.dataClaim"),
        (
            merged(REDIS, set_at("ranking.autoscaling", {"enabled": True, "minReplicas": 9})),
            r"minReplicas \(9\) is above maxReplicas \(8\)",
        ),
    ],
    ids=str,
)
def test_values_that_contradict_each_other_are_refused_clearly(
    chart: helm_python.Chart, values: Values, message: str
) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=message):
        render(chart, values)


def test_a_password_is_not_repeated_in_the_refusal(chart: helm_python.Chart) -> None:
    with pytest.raises(helm_python.HelmRenderError) as caught:
        render(chart, set_at("store.url", "redis://:hunter2@valkey:6379/0"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("release", ["1shop", "my.shop"])
def test_a_release_name_that_no_service_can_have_is_refused(chart: helm_python.Chart, release: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match="set fullnameOverride"):
        render(chart, {}, release=release)
    assert render(chart, {"fullnameOverride": "shop"}, release=release)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replicas", 3),
        ("retrieval.replica", 3),
        ("ranking.config.retrievalTimeoutMS", 10),
        ("retrieval.config.retrievalTarget", "dns:///x:1"),
        ("retrieval.replicas", 0),
        ("retrieval.replicas", "2"),
        ("retrieval.replicas", None),
        ("ranking.config.port", 80),
        ("ranking.config.port", 50052.5),
        ("ranking.config.threads", 0),
        ("ranking.config.drainSeconds", -1),
        ("ranking.config.bundlePollSeconds", 0),
        ("ranking.config.logLevel", "INFO"),
        ("ranking.config.reflection", "yes"),
        ("ranking.config.retrievalTarget", 'x"\nport = 1'),
        ("ranking.terminationMarginSeconds", 0),
        ("ranking.resources.limits.memory", "lots"),
        ("ranking.podDisruptionBudget.maxUnavailable", 0),
        ("store.url", "postgres://db/tandem"),
        ("store.url", ""),
        ("bundles.accessMode", "ReadOnlyMany"),
        ("bundles.size", "20 GB"),
        ("podSecurityContext.runAsUser", 0),
        ("image.digest", "sha256:short"),
        ("image.pullPolicy", "Sometimes"),
        ("fullnameOverride", "Shop"),
        ("trainer.threads", 0),
    ],
)
def test_the_schema_refuses_bad_values_and_names_the_place(chart: helm_python.Chart, path: str, value: object) -> None:
    with pytest.raises(helm_python.HelmValuesError) as caught:
        render(chart, set_at(path, value))
    # An unknown or a deleted key is named in the message, any other value by its path.
    message = str(caught.value)
    assert "/" + path.replace(".", "/") in message or f"'{path.rpartition('.')[2]}'" in message


def test_no_object_in_the_schema_takes_unknown_keys() -> None:
    def objects(node: object, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield where, node
            for key, child in node.items():
                yield from objects(child, f"{where}/{key}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    found = dict(objects(schema, ""))
    assert len(found) > 20
    for where, node in found.items():
        if where == "/properties/global":  # Helm's own
            continue
        # Either closed, or a map whose values have a schema.
        assert node.get("additionalProperties") is False or isinstance(node.get("additionalProperties"), dict), where


def test_the_readme_lists_every_value_and_no_other(chart: helm_python.Chart) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (CHART / "README.md").read_text(), flags=re.MULTILINE)
    patterns = [re.compile(re.sub(r"<\w+>", r"[^.]+", row.replace(".", r"\.")) + r"(\..+)?") for row in rows]
    keys = list(leaves(chart.values))
    assert [key for key in keys if not any(pattern.fullmatch(key) for pattern in patterns)] == []
    unused = [row for row, pattern in zip(rows, patterns, strict=True) if not any(map(pattern.fullmatch, keys))]
    assert unused == []
