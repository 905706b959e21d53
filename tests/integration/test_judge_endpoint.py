"""The judge against a real HTTP server in this process that misbehaves on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.errors import RunFailure
from recipes.stages.endpoint import EndpointSettings
from recipes.stages.filters import FilterSettings
from recipes.stages.judge import EndpointJudge, JudgeSettings
from recipes.stages.judge_contract import JudgeQuestion
from recipes.stages.selection import GradedResponse, GradedTask, SelectionSettings, Selector

OK = {"five": "VERDICT: CORRECT", "four": "VERDICT: WRONG"}


class FakeEndpoint(ThreadingHTTPServer):
    """Chat completions. A prediction `five` is correct, `four` wrong; other predictions name a fault, which `times`
    limits to the first so many requests for it: after that the answer is correct."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.times: dict[str, int] = {}
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.release = threading.Event()
        self._now = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up on a slow answer is part of the test."""

    def entered(self, by: int) -> None:
        with self.lock:
            self._now += by
            self.most_at_once = max(self.most_at_once, self._now)

    def count(self, name: str) -> int:
        with self.lock:
            return Counter(name for name, _, _ in self.requests)[name]


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        name = prompt.split("<proposed_answer>\n")[1].split("\n</proposed_answer>")[0]
        with self.server.lock:
            self.server.requests.append((name, body, self.headers["Authorization"]))
        self.server.entered(1)
        try:
            self._answer(name)
        finally:
            self.server.entered(-1)

    def _answer(self, name: str) -> None:
        faulty = self.server.count(name) <= self.server.times.get(name, 10**9)
        fault = name.partition("-")[0] if faulty and name not in OK else ""
        match fault:
            case "":
                self._send(200, _completion(OK.get(name, "VERDICT: CORRECT")))
            case "slow":
                self.server.release.wait(5)
                self._send(200, _completion("VERDICT: CORRECT"))
            case "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case "html":
                self._send(200, "<html>It works!</html>", "text/html")
            case "garbage":
                self._send(200, '{"choices": [')
            case "list":
                self._send(200, "[1, 2]")
            case "empty":
                self._send(200, json.dumps({"id": "1", "object": "chat.completion", "choices": []}))
            case "map":
                self._send(200, '{"choices": {}}')
            case "deep":
                self._send(200, "[" * 100_000)
            case "null":
                self._send(200, _completion(None))
            case "chatter":
                self._send(200, _completion("I am not sure, maybe CORRECT?"))
            case "later":
                self._send(429, '{"error": {"message": "too many"}}', more={"Retry-After": "0.3"})
            case _:
                self._send(int(fault), json.dumps({"error": {"message": f"status {fault}"}}))

    def _send(self, status: int, text: str, kind: str = "application/json", more: dict[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _completion(content: str | None) -> str:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    server = FakeEndpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join(5)
    assert not thread.is_alive()


def _settings(url: str, **more: Any) -> JudgeSettings:
    given = {"base_url": url, "model": "judge-7b", "pause_s": 0.01, "retries": 2, "timeout_s": 10.0} | more
    of_judge = {key: given.pop(key) for key in ("max_unclear", "min_replies") if key in given}
    return JudgeSettings(endpoint=EndpointSettings(**given), **of_judge)


def _questions(names: Sequence[str]) -> list[JudgeQuestion]:
    return [JudgeQuestion(f"row-{number}", "What is 2 + 3?", "5", name) for number, name in enumerate(names)]


def test_opinions_come_in_order_with_key_and_settings(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    settings = _settings(endpoint.url, api_key_env="JUDGE_KEY", temperature=0.5, max_tokens=99, extra={"top_k": 5})
    names = ["five", "four", "five", "four", "four"]
    opinions = EndpointJudge(settings).judge(_questions(names))
    assert opinions == ["correct", "wrong", "correct", "wrong", "wrong"]
    name, body, authorization = endpoint.requests[0]
    assert {key: body[key] for key in ("model", "temperature", "max_tokens", "top_k")} == {
        "model": "judge-7b",
        "temperature": 0.5,
        "max_tokens": 99,
        "top_k": 5,
    }
    assert authorization == "Bearer sesame"
    assert len(endpoint.requests) == 2  # equal questions are asked once
    assert name in OK


def test_passing_faults_are_tried_again(endpoint: FakeEndpoint) -> None:
    names = ["500-a", "503-b", "later-c", "drop-d", "429-e", "five"]
    endpoint.times = {"500-a": 1, "503-b": 2, "later-c": 1, "drop-d": 1, "429-e": 2}
    started = time.monotonic()
    assert EndpointJudge(_settings(endpoint.url)).judge(_questions(names)) == ["correct"] * 6
    assert time.monotonic() - started >= 0.3  # what the server asked for
    assert {name: endpoint.count(name) for name in names} == {
        "500-a": 2,
        "503-b": 3,
        "later-c": 2,
        "drop-d": 2,
        "429-e": 3,
        "five": 1,
    }


def test_a_slow_answer_is_given_up_and_tried_again(endpoint: FakeEndpoint) -> None:
    endpoint.times = {"slow-a": 1}
    assert EndpointJudge(_settings(endpoint.url, timeout_s=0.3)).judge(_questions(["slow-a"])) == ["correct"]


@pytest.mark.parametrize(
    ("name", "timeout_s", "message"),
    [
        ("slow-a", 0.7, r"no answer within 0\.7 s, 2 attempts; see that the endpoint is up"),
        ("500-a", 10.0, r"status 500: .*, 2 attempts; see that the endpoint is up"),
        ("429-a", 10.0, r"status 429: .*, 2 attempts"),
        ("drop-a", 10.0, r"no connection \(.*\), 2 attempts"),
        ("401-a", 10.0, r"status 401: .*; check the key, the model's name and the address"),
        ("404-a", 10.0, r"status 404: .*; check the key"),
    ],
)
def test_lasting_faults_name_endpoint_and_row_and_keep_what_was_answered(
    endpoint: FakeEndpoint, tmp_path: Path, name: str, timeout_s: float, message: str
) -> None:
    settings = _settings(endpoint.url, timeout_s=timeout_s, retries=1, concurrency=1)
    questions = _questions(["five", "four", name, "never-asked"])
    cache = tmp_path / "verdicts.jsonl"
    with pytest.raises(RunFailure, match=message) as caught:
        EndpointJudge(settings, cache=cache).judge(questions)
    assert f"judge judge-7b at {endpoint.url}: row 'row-2': " in str(caught.value)
    assert "run it again to go on" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert endpoint.count("never-asked") == 0
    endpoint.times = {name: 0, "never-asked": 0}
    asked = len(endpoint.requests)
    assert EndpointJudge(settings, cache=cache).judge(questions) == ["correct", "wrong", "correct", "correct"]
    assert len(endpoint.requests) == asked + 2


def test_a_refused_connection_ends_the_run() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(RunFailure, match=r"no connection \(.*refused.*\), 3 attempts; see that the endpoint is up"):
            EndpointJudge(_settings(url)).judge(_questions(["five"]))


def test_nonsense_is_unclear_counted_and_never_guessed(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    nonsense = ["html-a", "garbage-a", "list-a", "empty-a", "map-a", "deep-a", "null-a", "chatter-a", "400-a", "422-a"]
    judge = EndpointJudge(_settings(endpoint.url, max_unclear=1.0), cache=tmp_path / "c.jsonl")
    assert judge.judge(_questions(["five", *nonsense])) == ["correct"] + ["unclear"] * 10
    assert (judge.watch.num_replies, judge.watch.num_unclear) == (11, 10)
    assert {endpoint.count(name) for name in nonsense} == {1}
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 1


def test_too_much_nonsense_ends_the_run_and_the_rerun_goes_on(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    names = ["five", "four"] + [f"chatter-{number}" for number in range(20)]
    settings = _settings(endpoint.url, max_unclear=0.3, min_replies=5, concurrency=2)
    cache = tmp_path / "c.jsonl"
    with pytest.raises(RunFailure, match=r"judge-7b at http.* of \d+ replies end in no verdict, at most 30%.* 'row-\d"):
        EndpointJudge(settings, cache=cache).judge(_questions(names))
    asked = len(endpoint.requests)
    assert asked < 12  # it stopped, and did not ask them all
    endpoint.times = dict.fromkeys(names, 0)
    assert EndpointJudge(settings, cache=cache).judge(_questions(names)) == ["correct", "wrong"] + ["correct"] * 20
    assert len(endpoint.requests) == asked + 20


def test_a_server_that_refuses_every_row_is_quoted(endpoint: FakeEndpoint) -> None:
    settings = _settings(endpoint.url, min_replies=2, max_tokens=None)
    with pytest.raises(RunFailure, match=r"2 of 2 replies .*ends .*status 400.*status 400"):
        EndpointJudge(settings).judge(_questions(["400-a", "400-b", "400-c"]))
    assert "max_tokens" not in endpoint.requests[0][1]


def test_requests_in_flight_are_bounded_and_used(endpoint: FakeEndpoint) -> None:
    names = [f"slow-{number}" for number in range(9)]

    def release() -> None:
        deadline = time.monotonic() + 4
        while endpoint.most_at_once < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        endpoint.release.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    assert EndpointJudge(_settings(endpoint.url, concurrency=3)).judge(_questions(names)) == ["correct"] * 9
    releasing.join(5)
    assert endpoint.most_at_once == 3


def test_a_stop_lets_answers_in_and_asks_no_more(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    def stop() -> bool:
        return len(endpoint.requests) >= 3

    settings = _settings(endpoint.url, concurrency=1)
    questions = _questions(["five", "four", *(f"ok-{number}" for number in range(30))])
    endpoint.times = {question.prediction: 0 for question in questions}
    with pytest.raises(RunFailure, match=r"stopped after 3 of 32 new answers; run it again"):
        EndpointJudge(settings, cache=tmp_path / "c.jsonl", stop=stop).judge(questions)
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == len(endpoint.requests) == 3


def test_pauses_end_when_another_row_fails(endpoint: FakeEndpoint) -> None:
    """A row that waits a minute for its next attempt does not hold up the failure of another."""
    settings = _settings(endpoint.url, pause_s=60.0, retries=3)
    started = time.monotonic()
    with pytest.raises(RunFailure, match="status 401"):
        EndpointJudge(settings).judge(_questions(["500-a", "500-b", "401-c"]))
    assert time.monotonic() - started < 20


def test_rejection_sampling_with_a_judge_behind_an_endpoint(endpoint: FakeEndpoint) -> None:
    responses = [
        GradedResponse(f"<think>way {name}</think><answer>{name}</answer>", "pass", 1.0)
        for name in ("five", "four", "chatter-a")
    ]
    settings = SelectionSettings(judge="confirm", filters=FilterSettings(min_language_share=None), near_duplicates=None)
    selector = Selector(settings, origin="o", judge=EndpointJudge(_settings(endpoint.url)))
    selector.add([GradedTask("a", "sums", "2 + 3?", "p", responses, gold="5")])
    selection = selector.finish()
    assert [row.id for row in selection.rows] == ["a#0"]
    counts = selection.acceptance.totals()
    assert (counts["judged"], counts["judged_wrong"], counts["judged_unclear"]) == (3, 1, 1)
