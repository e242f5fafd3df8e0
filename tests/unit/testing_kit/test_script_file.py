"""Script files, and the process that follows them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_testing import load_script, serve
from tandem_testing.script_file import ScriptError

SCRIPT = """
bundle_id = "b-7"
catalogue = ["shoe", "hat", "coat"]

[ranking]
requests = 1
fail = {code = "RESOURCE_EXHAUSTED", message = "busy", retry_after_s = 1.5}

[[retrieval]]
requests = 1
late = ["als"]
degrade = [{kind = "SOURCE_FAILED", component = "search"}]
[[retrieval]]
empty = true

[events]
answer = {type = "tandem.events.v1.WriteEventsResponse", value = {results = [{outcome = "EVENT_OUTCOME_DUPLICATE"}]}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "script.toml"
    path.write_text(text)
    return path


def test_stubs_follow_the_file(tmp_path: Path) -> None:
    stubs = load_script(written(tmp_path, SCRIPT))
    with serve(*stubs.all) as running:
        ranking = ranking_pb2_grpc.RankingServiceStub(running.channel)
        with pytest.raises(grpc.RpcError) as caught:
            ranking.Recommend(ranking_pb2.RecommendRequest())
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        status, retry = rpc_status.from_call(caught.value), error_details_pb2.RetryInfo()
        assert status is not None
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1500
        slate = ranking.Recommend(ranking_pb2.RecommendRequest())
        assert slate.bundle_id == "b-7"
        assert {item.item_id for item in slate.items} == {"shoe", "hat", "coat"}
        retrieval = retrieval_pb2_grpc.RetrievalServiceStub(running.channel)
        late = retrieval.Retrieve(retrieval_pb2.RetrieveRequest())
        assert [d.component for d in late.degradations] == ["als", "search"]
        assert not retrieval.Retrieve(retrieval_pb2.RetrieveRequest()).candidates.item_ids
        wrote = events_pb2_grpc.EventServiceStub(running.channel).WriteEvents(events_pb2.WriteEventsRequest())
        assert wrote.results[0].outcome == events_pb2.EVENT_OUTCOME_DUPLICATE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ranking = 3", "ranking is 3"),
        ("[rankin]\n", "no key 'rankin'"),
        ("[ranking]\ndelay = 1", "no key 'delay'; there are delay_s"),
        ("[ranking]\ndelay_s = -1", "delay_s is -1"),
        ('[ranking]\ndelay_s = "1"', "wrong type"),
        ("[ranking]\nrequests = 0", "a step of 0 requests"),
        ('[ranking]\nfail = {code = "BROKEN"}', "fail.code is 'BROKEN'; there are CANCELLED"),
        ('[ranking]\nfail = {code = "ABORTED"}\nbundle_mismatch = true', "give one of them"),
        ('[ranking]\ndegrade = [{kind = "LATE"}]', "kind is 'LATE'; there are SOURCE_LATE"),
        ('[ranking]\nanswer = {type = "tandem.Nothing"}', "no message type 'tandem.Nothing'"),
        (
            '[ranking]\nanswer = {type = "tandem.ranking.v1.RankResponse", value = {item = []}}',
            "answer: .*no field named",
        ),
        ('catalogue = ["a", "a"]', "catalogue: .*twice"),
        ('catalogue = ["a"]\ncatalogue_size = 3', "give one of them"),
        ("not toml", "script.toml"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ScriptError, match=says):
        load_script(written(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"nowhere\.toml: cannot be read"):
        load_script(tmp_path / "nowhere.toml")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(*arguments) runs `python -m tandem_testing`; what still runs is ended."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tandem_testing", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_the_command_serves_every_service_and_ends_when_told(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("--port", "0", "--script", str(written(tmp_path, 'catalogue = ["shoe"]')))
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    assert line["event"] == "listening"
    assert len(line["services"]) == 5
    with grpc.insecure_channel(line["address"], [("grpc.enable_http_proxy", 0)]) as channel:
        slate = ranking_pb2_grpc.RankingServiceStub(channel).Recommend(ranking_pb2.RecommendRequest(), timeout=30)
        assert [item.item_id for item in slate.items] == ["shoe"]
        taken = start("--port", str(line["port"]))
        assert taken.wait(30) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_the_command_says_in_one_line_what_is_wrong(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("--port", "0", "--script", str(written(tmp_path, "[rankin]\n")))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "rankin" in errors
