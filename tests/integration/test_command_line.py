"""The command line as people use it: both services under one supervisor, asking them, measuring a bundle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_cli.main import app
from tandem_cli.serve import SERVICES
from tandem_core.registry import Registry
from tandem_trainer.train import Trained

BUF = Path(__file__).parents[2] / ".venv" / "node" / "node_modules" / ".bin" / "buf"


class Served:
    """`tandem serve` and its three children."""

    def __init__(self, supervisor: Any, retrieval_port: int, ranking_port: int) -> None:
        self.supervisor = supervisor
        self.retrieval_port = retrieval_port
        self.ranking_port = ranking_port
        self.target = f"127.0.0.1:{ranking_port}"

    @property
    def children(self) -> dict[str, int]:
        """Process ids by service, as the system has them."""
        pid = self.supervisor.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children}
        return {
            name: child
            for child, command in commands.items()
            for name, module in SERVICES.items()
            if module.encode() in command
        }

    def recommend(self) -> Any:
        """Return a whole answer, None while there is none."""
        with grpc.insecure_channel(self.target, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = ranking_pb2_grpc.RankingServiceStub(channel).Recommend(
                    ranking_pb2.RecommendRequest(), timeout=5, wait_for_ready=True
                )
            except grpc.RpcError:
                return None
        return None if answer.degradations else answer


def serve_both(launch: Any, registry: Registry, port: Callable[[], int], write_toml: Callable[..., Path]) -> Served:
    """Start `tandem serve` with retrieval's port in the file and ranking's on the command line."""
    retrieval_port, ranking_port, writer_port = port(), port(), port()
    fast = {"bundle_poll_s": 0.1, "drain_s": 0.2, "grace_s": 5.0}
    config = write_toml(
        launch.folder / "serve.toml",
        {
            "retrieval": {**fast, "port": retrieval_port},
            "ranking": {**fast, "retrieval_timeout_ms": 2000},
            "writer": {**fast, "port": writer_port},
        },
    )
    arguments = ["--config", str(config), "--registry", str(registry.root), "--ranking-port", str(ranking_port)]
    store = f"sqlite:///{launch.folder / 'store.db'}"
    return Served(launch.tandem("serve", *arguments, "--store", store), retrieval_port, ranking_port)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def served(
    module_launch: Any,
    registry: Registry,
    trained: Trained,
    a_free_port: Callable[[], int],
    write_toml: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> Served:
    served = serve_both(module_launch, registry, a_free_port, write_toml)
    wait_until(served.recommend, timeout_s=60, what="an answer")
    return served


def tandem(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_recommend_prints_the_list(served: Served, trained: Trained) -> None:
    known = ["--attribute", "country=DE", "--context", "device=tv", "--event", "i007"]
    result = tandem("recommend", "--target", served.target, "--k", "7", *known)
    assert result.exit_code == 0, result.output
    assert "user (nobody)" in result.stdout
    assert "few events" in result.stdout
    titles = trained.dataset.items["title"]
    assert sum(title in result.stdout for title in titles) >= 7
    assert "degraded" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--k", "0"], "--k is 0; a list has 1 to 500 items"),
        (["--k", "-3"], "--k is -3"),
        (["--k", "501"], "--k is 501"),
        (["--attribute", "country"], "write it as name=value"),
        (["--context", "=tv"], "write it as name=value"),
        (["--placement", "nowhere"], "no placement 'nowhere'"),
        (["--event", ""], "context.recent_events[0].item_id"),
        (["--target", "127.0.0.1:1", "--timeout", "2"], "127.0.0.1:1 answered UNAVAILABLE"),
    ],
)
def test_recommend_ends_with_one_clear_error(served: Served, arguments: list[str], named: str) -> None:
    target = [] if "--target" in arguments else ["--target", served.target]
    result = tandem("recommend", *target, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert [line.startswith("error:") for line in result.stderr.splitlines()] == [True]
    assert not result.stdout


def test_similar_and_embeddings_ask_the_retrieval_service(served: Served, trained: Trained, registry: Registry) -> None:
    target = ["--target", f"127.0.0.1:{served.retrieval_port}"]
    similar = tandem("similar", "i007", "i010", "--k", "6", "--registry", str(registry.root), *target)
    assert similar.exit_code == 0, similar.output
    assert sum(title in similar.stdout for title in trained.dataset.items["title"]) >= 6
    lines = tandem("embeddings", "--item", "i007", "--user", "nobody", *target).stdout.splitlines()
    assert [(each["kind"], each["id"], each["bundle_id"]) for each in map(json.loads, lines)] == [
        ("item", "i007", trained.bundle_id),
        ("user", "nobody", trained.bundle_id),
    ]


@pytest.mark.skipif(not BUF.exists(), reason="buf is not installed: make buf-lint brings it, where there is npm")
def test_buf_asks_as_a_client_that_knows_nothing_of_us(served: Served, trained: Trained) -> None:
    question = {"context": {"userId": "nobody", "requestId": "r-1"}, "maxResults": 3, "returnAttributes": ["title"]}
    asked = subprocess.run(
        [
            BUF,
            "curl",
            "--protocol",
            "grpc",
            "--http2-prior-knowledge",
            "--data",
            json.dumps(question),
            f"http://{served.target}/tandem.ranking.v1.RankingService/Recommend",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert [item["position"] for item in answer["items"]] == [1, 2, 3]
    assert all(item["attributes"][0]["stringValue"] for item in answer["items"])
    assert answer["bundleId"] == trained.bundle_id
    assert answer["requestId"] == "r-1"
    assert answer["regime"] == "USER_REGIME_UNKNOWN"
    assert "degradations" not in answer


def test_a_child_that_dies_is_started_again_and_a_signal_ends_them_all(
    launch: Any,
    registry: Registry,
    trained: Trained,
    a_free_port: Callable[[], int],
    write_toml: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    served = serve_both(launch, registry, a_free_port, write_toml)
    wait_until(served.recommend, timeout_s=60, what="an answer")
    before = served.children
    assert set(before) == set(SERVICES)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: len(served.children) == 3 and not set(served.children.values()) & set(before.values()),
        timeout_s=30,
        what="three new children",
    )
    wait_until(served.recommend, timeout_s=30, what="an answer after all were killed")
    for name in before:
        assert f"{name} ended with code -9; starting it again" in served.supervisor.text
    last = served.children
    assert served.supervisor.terminate() == 0
    assert not any(alive(pid) for pid in last.values())
    # Those of the killed trees end in order, too, when they notice.
    assert served.supervisor.text.count('"draining"') >= 3
    assert served.supervisor.text.count('"stopped"') == served.supervisor.text.count('"draining"')
    for port in (served.ranking_port, served.retrieval_port):
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the past may linger
            free.bind(("127.0.0.1", port))


def test_no_service_outlives_a_supervisor_that_was_killed(
    launch: Any,
    registry: Registry,
    trained: Trained,
    a_free_port: Callable[[], int],
    write_toml: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    served = serve_both(launch, registry, a_free_port, write_toml)
    wait_until(served.recommend, timeout_s=60, what="an answer")
    children = served.children
    assert set(children) == set(SERVICES)
    served.supervisor.kill()
    wait_until(lambda: not any(map(alive, children.values())), timeout_s=20, what="the end of both services")


@pytest.mark.parametrize("wrong", ["unknown key", "unknown table", "taken port"])
def test_serve_ends_with_what_cannot_be_mended_by_starting_again(
    launch: Any,
    registry: Registry,
    trained: Trained,
    a_free_port: Callable[[], int],
    write_toml: Callable[..., Path],
    wrong: str,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [a_free_port(), taken.getsockname()[1] if wrong == "taken port" else a_free_port()]
        tables = {
            "unknown key": {"retrieval": {"treads": 3}},
            "unknown table": {"retreival": {"threads": 3}},
            "taken port": {},
        }
        config = write_toml(launch.folder / "serve.toml", {"ranking": {"drain_s": 0.0}, **tables[wrong]})
        running = launch.tandem(
            *("serve", "--config", str(config), "--registry", str(registry.root)),
            *("--retrieval-port", str(ports[0]), "--ranking-port", str(ports[1])),
        )
        assert running.process.wait(60) == 2
    named = {"unknown key": "treads", "unknown table": "retreival", "taken port": f"127.0.0.1:{ports[1]}"}
    assert named[wrong] in running.text
    assert "Traceback" not in running.text
    assert "starting it again" not in running.text


def test_evaluate_writes_every_figure(registry: Registry, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "figures" / "all.json"
    result = tandem("evaluate", "--registry", str(registry.root), "--users", "40", "--json", str(file))
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert figures["bundle_id"] == trained.bundle_id
    assert figures["protocol"] == "leave_last_out"
    assert figures["users"] == 40
    assert {"popularity", "als", "two_tower", "retrieval", "ranked"} <= set(figures["arms"])
    assert figures["compared"]
    assert "recall@10" in result.stdout


def test_evaluate_refuses_another_cut_and_says_what_to_do(registry: Registry, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    result = tandem("evaluate", "--registry", str(registry.root), "--protocol", "global-time", "--json", str(file))
    assert result.exit_code == 2
    assert "was trained on the cut of leave_last_out, not of global_time" in result.stderr
    assert 'set split.protocol = "global_time" and run tandem train' in result.stderr
    assert not file.exists()


def test_evaluate_refuses_other_data_and_says_what_to_do(registry: Registry, trained: Trained, tmp_path: Path) -> None:
    made = tandem("generate", "--out", str(tmp_path / "data"), "--users", "50", "--items", "40", "--seed", "8")
    assert made.exit_code == 0, made.output
    config = tmp_path / "train.toml"
    config.write_text("[data]\nadapter = 'tables'\n")
    data = str(tmp_path / "data")
    result = tandem("evaluate", "--registry", str(registry.root), "--data", data, "--config", str(config))
    assert result.exit_code == 2
    assert "Give the data it was trained on, or train again" in result.stderr


def test_evaluate_without_a_bundle_says_what_to_do(tmp_path: Path) -> None:
    result = tandem("evaluate", "--registry", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "has no current bundle: run tandem train first" in result.stderr


def test_bundles_are_listed_activated_and_rolled_back(own_registry: Registry, publish_copy: Callable[..., Any]) -> None:
    root = str(own_registry.root)
    publish_copy(own_registry, "b0")
    damaged = publish_copy(own_registry, "b1", activate=False)
    publish_copy(own_registry, "b2")
    listed = tandem("bundles", "list", "--registry", root)
    assert listed.exit_code == 0, listed.output
    assert [line.split("│")[1:3] for line in listed.stdout.splitlines() if "│" in line] == [
        [" * ", " b2     "],
        ["   ", " b1     "],
        ["   ", " b0     "],
    ]
    assert "current is b0" in tandem("bundles", "rollback", "--registry", root).stdout
    (damaged / "ranker.onnx").write_bytes(b"damaged")
    refused = tandem("bundles", "activate", "b1", "--registry", root)
    assert refused.exit_code == 2
    assert "ranker.onnx" in refused.stderr
    unknown = tandem("bundles", "activate", "b9", "--registry", root)
    assert unknown.exit_code == 2
    assert "no bundle 'b9'" in unknown.stderr
    current = own_registry.current()
    assert current is not None
    assert current.bundle_id == "b0"
