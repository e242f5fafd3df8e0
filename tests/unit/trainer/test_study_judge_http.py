"""The judge behind a chat endpoint, against a real HTTP server on this machine.

No language model was asked: the server answers with texts written here, in the form that such endpoints answer in.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.registry import Registry
from tandem_trainer.studies.judge import JudgedItem
from tandem_trainer.studies.judge_http import HttpJudge, JudgeUnavailable, verdict_of
from tandem_trainer.train import Trained

KEY = "sk-a-key-of-these-tests"
HAD = (JudgedItem("Alien", ("horror", "scifi")), JudgedItem("Café [1939]", ()), JudgedItem("Up", ("children",)))
RECOMMENDED = (JudgedItem("Aliens", ("scifi",)), JudgedItem("Heat", ("crime",)), JudgedItem("Cars", ("children",)))
Send = Callable[[int, bytes, dict[str, str]], None]


def completion(content: object) -> bytes:
    """What a chat endpoint answers where the model said `content`."""
    message = {"role": "assistant", "content": content}
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


class Endpoint:
    """A server that keeps what it was asked and answers what it was told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status, self.body, self.headers = 200, completion('{"score": 7, "reason": "Both are like Alien."}'), {}
        self.answer_anyway = threading.Event()
        self.late = False
        self.slow = False
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append((self.path, dict(self.headers), body))
                if endpoint.late:
                    endpoint.answer_anyway.wait(60)
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for _ in range(300 if endpoint.slow else 0):
                        endpoint.answer_anyway.wait(0.01)
                        self.wfile.write(b" ")
                    self.wfile.write(endpoint.body)
                except OSError:  # the judge has hung up, as it should
                    self.close_connection = True

            def do_GET(self) -> None:
                endpoint.asked.append((self.path, dict(self.headers), {}))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Keep the test output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def says(self, content: object) -> None:
        self.body = completion(content)

    def close(self) -> None:
        self.answer_anyway.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    running = Endpoint()
    yield running
    running.close()


def judge_at(endpoint: Endpoint, **fields: Any) -> HttpJudge:
    return HttpJudge(endpoint.url, "a-model", **{"key": KEY, **fields})


def test_titles_and_categories_go_out_and_score_and_reason_come_back(endpoint: Endpoint) -> None:
    verdict = judge_at(endpoint).judge(HAD, RECOMMENDED)
    assert (verdict.score, verdict.reason) == (7, "Both are like Alien.")
    ((path, headers, body),) = endpoint.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], [each["role"] for each in body["messages"]]) == ("a-model", ["system", "user"])
    asked = json.loads(body["messages"][1]["content"])
    assert set(asked) == {"had", "recommended"}
    assert asked["had"][:2] == [
        {"title": "Alien", "categories": ["horror", "scifi"]},
        {"title": "Café [1939]", "categories": []},
    ]
    assert [each["title"] for each in asked["recommended"]] == ["Aliens", "Heat", "Cars"]


def test_the_whole_address_may_be_given_and_without_a_key_none_is_sent(endpoint: Endpoint) -> None:
    assert HttpJudge(endpoint.url + "/chat/completions", "m").judge(HAD, RECOMMENDED).score == 7
    ((path, headers, _),) = endpoint.asked
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("I would say 8.", "it is no JSON"),
        ('```json\n{"score": 8, "reason": "good"}\n```', "it is no JSON"),
        ("[8]", "no object of score and reason alone"),
        ('{"score": 8}', "no object of score and reason alone"),
        ('{"score": 8, "reason": "good", "more": 1}', "no object of score and reason alone"),
        ('{"score": 11, "reason": "good"}', "no whole number from 1 to 10"),
        ('{"score": 0, "reason": "bad"}', "no whole number from 1 to 10"),
        ('{"score": 7.5, "reason": "good"}', "no whole number from 1 to 10"),
        ('{"score": "7", "reason": "good"}', "no whole number from 1 to 10"),
        ('{"score": true, "reason": "good"}', "no whole number from 1 to 10"),
        ('{"score": 7, "reason": " "}', "it gives no reason"),
        ('{"score": 7, "reason": ["good"]}', "it gives no reason"),
        ("[" * 100_000, "it is no JSON"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_a_verdict_without_a_score(
    endpoint: Endpoint, content: str, why: str
) -> None:
    endpoint.says(content)
    verdict = judge_at(endpoint).judge(HAD, RECOMMENDED)
    assert verdict.score is None
    assert why in verdict.reason
    assert len(verdict.reason) < 700


def test_a_reason_is_one_line_without_control_characters() -> None:
    told = verdict_of(json.dumps({"score": 3, "reason": "first\nsecond \x1b[31mred" + "x" * 1000}))
    assert told.reason.startswith("first second [31mred")
    assert len(told.reason) == 500


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "answered 401: it does not know the key: look at the variable that --key-env names"),
        (403, "answered 403: the key may not do this"),
        (404, "answered 404: there is no such address or model"),
        (429, "answered 429: too many requests"),
        (500, "answered 500: nothing was judged"),
    ],
)
def test_a_refusal_says_what_to_do_and_never_the_key(endpoint: Endpoint, status: int, said: str) -> None:
    endpoint.status, endpoint.body = status, f'{{"error": "wrong key {KEY}"}}'.encode()
    with pytest.raises(JudgeUnavailable, match=said) as caught:
        judge_at(endpoint).judge(HAD, RECOMMENDED)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"", b"[]", b'{"choices": []}', completion(None), completion({"score": 7}), b"\xff\xfe"],
)
def test_an_answer_that_is_no_chat_completion_is_named(endpoint: Endpoint, body: bytes) -> None:
    endpoint.body = body
    with pytest.raises(JudgeUnavailable, match="no chat completion"):
        judge_at(endpoint).judge(HAD, RECOMMENDED)


def test_an_answer_without_end_is_cut_off(endpoint: Endpoint) -> None:
    endpoint.body = b" " * (2**20 + 1)
    with pytest.raises(JudgeUnavailable, match="more than 1,048,576 bytes"):
        judge_at(endpoint).judge(HAD, RECOMMENDED)


@pytest.mark.parametrize("how", ["late", "slow"])
def test_an_answer_that_takes_too_long_is_not_waited_for(endpoint: Endpoint, how: str) -> None:
    setattr(endpoint, how, True)  # silent until the test is over, or a byte at a time for 3 s
    with pytest.raises(JudgeUnavailable, match=r"took longer than 0\.2 s: raise --timeout"):
        judge_at(endpoint, timeout_s=0.2).judge(HAD, RECOMMENDED)


def test_nobody_who_listens_is_said_so() -> None:
    with pytest.raises(JudgeUnavailable, match=r"http://127\.0\.0\.1:1/v1 cannot be reached"):
        HttpJudge("http://127.0.0.1:1/v1", "m").judge(HAD, RECOMMENDED)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_so_that_the_key_goes_nowhere_else(endpoint: Endpoint, status: int) -> None:
    endpoint.status, endpoint.headers = status, {"Location": endpoint.url.replace("127.0.0.1", "localhost")}
    with pytest.raises(JudgeUnavailable, match="it sends elsewhere"):
        judge_at(endpoint).judge(HAD, RECOMMENDED)
    assert len(endpoint.asked) == 1


def test_what_is_on_this_machine_is_asked_without_a_proxy(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert judge_at(endpoint).judge(HAD, RECOMMENDED).score == 7


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"endpoint": "127.0.0.1:8080"}, "must be http://HOST/PATH"),
        ({"endpoint": "https://h.example/v1?x=1"}, "without a query"),
        ({"endpoint": f"https://me:{KEY}@h.example/v1"}, "must not hold a name or a password"),
        ({"endpoint": "https://h.example:port/v1"}, "Port"),
        ({"endpoint": "http://h.example/v1"}, "would travel unencrypted"),
        ({"model": ""}, "the model has no name"),
        ({"timeout_s": 0.0}, "timeout is 0"),
        ({"key": f"{KEY}\nmore"}, "characters that no key has"),
    ],
)
def test_what_can_not_be_used_is_refused_without_saying_the_key(fields: dict[str, Any], said: str) -> None:
    known = {"endpoint": "https://h.example/v1", "model": "m", "key": KEY}
    with pytest.raises(ValueError, match=said) as caught:
        HttpJudge(**{**known, **fields})
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_repr_and_no_name(endpoint: Endpoint) -> None:
    judge = judge_at(endpoint)
    assert KEY not in repr(judge) + str(judge) + judge.name


def test_the_command_asks_the_endpoint_and_shows_the_key_nowhere(
    endpoint: Endpoint, trained: Trained, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    path = tmp_path / "judged.json"
    arguments = ["judge", "--registry", str(registry.root), "--users", "2", "--json", str(path), "--judge", "http"]
    arguments += ["--endpoint", endpoint.url, "--model", "a-model", "--key-env", "MY_KEY"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"a-model at {endpoint.url}: mean 7.00 of 10" in result.output
    assert "Both are like Alien." in result.output
    assert len(endpoint.asked) == 2
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in endpoint.asked)
    written = json.loads(path.read_text())
    assert [row["score"] for row in written["rows"]] == [7, 7]
    sent = json.dumps([body for _, _, body in endpoint.asked])
    assert not any(row["user_id"] in sent for row in written["rows"])
    endpoint.status = 401
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "answered 401" in " ".join(refused.output.split())
    assert KEY not in result.output + refused.output + path.read_text()
