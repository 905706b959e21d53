"""`evaluate_models` and what it keeps, with a sampler that answers at once: figures, files, resumption, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from common.config import RunConfig
from common.errors import UserError
from common.messages import Verdict
from launcher import evaluate as module
from launcher.eval_plan import EvalSettings, engine_groups, grading_config
from launcher.evaluate import EvalRequest, evaluate_models, run_evaluation
from launcher.sampling import Completion, SampledTask, Sampler, SampleRequest
from recipes.suites.contests import Contest
from recipes.suites.registry import find_suites
from recipes.suites.suite import Suite
from tests.unit.launcher_inputs import make_config, make_model_directory, write_problems

SAY: list[str] = []


class FakeSampler:
    """Answers `answers[i % len]` to every problem's i-th sample; a right one passes, greedy answers are right.

    `stop_after` requests it raises KeyboardInterrupt, as a sampler does that was stopped.
    """

    def __init__(self, answers: list[str | None], stop_after: int | None = None) -> None:
        self.answers, self.stop_after = answers, stop_after
        self.loaded: list[str] = []
        self.requests: list[SampleRequest] = []
        self.scores: dict[str, float] = {}

    def load(self, model: Path) -> None:
        self.loaded.append(model.name)

    def sample(self, requests: Iterable[SampleRequest]) -> Iterator[SampledTask]:
        for request in requests:
            if self.stop_after is not None and len(self.requests) >= self.stop_after:
                raise KeyboardInterrupt
            self.requests.append(request)
            gold = request.record["spec"]["answer"]
            given = [gold] if request.sampling.temperature == 0 else self.answers
            yield SampledTask(request.key, [self._completion(given, i, gold) for i in range(request.num)])

    def _completion(self, given: list[str | None], index: int, gold: str) -> Completion:
        answer = given[index % len(given)]
        text = "no answer" if answer is None else f"<think>x</think><answer>{answer}</answer>"
        outcome = "pass" if answer == gold else "fail"
        rewards = {"accuracy": float(outcome == "pass"), "format": 1.0, "reward_model": -float(index)} | self.scores
        return Completion(text, 5 + index, False, Verdict(outcome=outcome, reward=1.0, rewards=rewards))  # type: ignore[arg-type]


def sampler(*answers: str | None, stop_after: int | None = None) -> Any:
    return FakeSampler(list(answers), stop_after)


@pytest.fixture
def rig(tmp_path: Path) -> tuple[RunConfig, dict[str, Path], list[Suite]]:
    """Configuration, two models, two suites of three and two problems ("1 + 1?" and so on)."""
    config = grading_config(make_config(tmp_path), [])
    models = {name: make_model_directory(tmp_path / "models" / name) for name in ("one", "two")}
    (models["two"] / "model.safetensors").write_bytes(b"other weights")
    paths = [write_problems(tmp_path / f"{name}.jsonl", count) for name, count in (("small", 2), ("sums", 3))]
    return config, models, find_suites([str(path) for path in paths])


def run(
    rig: tuple[RunConfig, dict[str, Path], list[Suite]], fake: Any, settings: EvalSettings, out: Path | None = None
) -> Any:
    config, models, suites = rig
    return evaluate_models(config, models, suites, cast(Sampler, fake), settings, out=out, say=SAY.append)


def test_every_model_is_measured_on_every_suite(rig: Any, tmp_path: Path) -> None:
    fake = sampler("1", "1.0", "2", None)
    results = run(rig, fake, EvalSettings(k=4, max_tokens=8), tmp_path / "out")
    assert fake.loaded == ["one", "two"]
    assert [(model, list(suites)) for model, suites in results.items()] == [
        ("one", ["small", "sums"]),
        ("two", ["small", "sums"]),
    ]
    figures = results["one"]["sums"].figures  # golds 1, 2, 3: shares of right ones 1/4 ("1.0" fails here), 1/4, 0
    assert figures["pass_at_1"] == pytest.approx(1 / 6)
    assert figures["pass_at_k"][4] == pytest.approx(2 / 3)
    assert figures["cons_at_k"] == pytest.approx(1 / 3), "1 and 1.0 vote together, for the first sample's"
    assert (figures["greedy"], figures["format_rate"]) == (1.0, 1.0)
    assert (figures["num_problems"], figures["samples"]) == (3, 4)
    assert results["one"]["sums"].problems[0].samples[1].answer == "1.0"
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["suite"] for row in written["rows"]] == ["small", "sums"] * 2
    assert written["results"]["two"]["sums"]["figures"]["cons_at_k"] == pytest.approx(1 / 3)
    assert "| one | sums | 0.1667 ±" in (tmp_path / "out" / "results.md").read_text()
    assert '<td class="text">sums</td>' in (tmp_path / "out" / "results.html").read_text()


def test_every_sample_is_kept_for_reading(rig: Any, tmp_path: Path) -> None:
    run(rig, sampler("1", None), EvalSettings(k=2, max_tokens=8, select="majority"), tmp_path)
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(rows) == 2 * 5 * 3  # models, problems, two samples and a greedy one
    first = rows[0]
    assert (first["model"], first["suite"], first["id"], first["kind"]) == ("one", "small", "p/0", "sampled")
    assert first["prompt"] == "0 + 1?\n"
    assert (first["response"], first["answer"], first["gold"]) == ("<think>x</think><answer>1</answer>", "1", "1")
    assert (first["outcome"], first["passed"], first["selected"], first["num_tokens"]) == ("pass", True, True, 5)
    assert dict(first["rewards"])["format"] == 1.0
    assert rows[1]["answer"] is None


def test_an_interrupted_evaluation_goes_on_with_what_is_missing(rig: Any, tmp_path: Path) -> None:
    settings = EvalSettings(k=2, max_tokens=8)
    stopped = sampler("1", stop_after=7)
    with pytest.raises(KeyboardInterrupt):
        run(rig, stopped, settings, tmp_path)
    journal = next(iter(sorted((tmp_path / "journal").glob("one.*"))))
    with journal.open("a") as file:
        file.write('{"index": 1, "kind"')  # a kill in the middle of a line
    again = sampler("1")
    results = run(rig, again, settings, tmp_path)
    assert len(again.requests) == 2 * 10 - 7
    assert not {request.key for request in again.requests[:3]} & {request.key for request in stopped.requests}
    whole = run(rig, sampler("1"), settings)
    assert results["two"]["sums"].figures == whole["two"]["sums"].figures
    assert results["one"]["small"].problems == whole["one"]["small"].problems
    third = sampler("1")
    run(rig, third, settings, tmp_path)
    assert (third.requests, third.loaded) == ([], []), "nothing is missing"


@pytest.mark.parametrize(
    ("change", "key"), [({"k": 3}, "samples"), ({"temperature": 1.0}, "sampled"), ({"limit": 1}, "problems")]
)
def test_an_out_of_other_settings_is_refused(rig: Any, tmp_path: Path, change: dict[str, Any], key: str) -> None:
    run(rig, sampler("1"), EvalSettings(k=2, max_tokens=8), tmp_path)
    before = (tmp_path / "journal" / "one.small.jsonl").read_text()
    with pytest.raises(UserError, match=f"one.small.jsonl was begun with {key} .*give another --out"):
        run(rig, sampler("1"), EvalSettings(**{"k": 2, "max_tokens": 8, **change}), tmp_path)
    assert (tmp_path / "journal" / "one.small.jsonl").read_text() == before


def test_other_weights_of_the_same_name_are_noticed(rig: Any, tmp_path: Path) -> None:
    run(rig, sampler("1"), EvalSettings(k=1, max_tokens=8), tmp_path)
    (rig[1]["one"] / "model.safetensors").write_bytes(b"trained further")
    with pytest.raises(UserError, match=r"one\.small\.jsonl was begun with model "):
        run(rig, sampler("1"), EvalSettings(k=1, max_tokens=8), tmp_path)


def test_majority_and_best_of_n_select(rig: Any) -> None:
    majority = run(rig, sampler("1", "2", "2"), EvalSettings(k=3, max_tokens=8, select="majority"))
    figures = majority["one"]["sums"].figures
    assert figures["selected"] == {"by": "majority", "accuracy": pytest.approx(1 / 3)}  # everybody votes for 2
    assert [problem.selected for problem in majority["one"]["sums"].problems] == [1, 1, 1]
    config, models, suites = rig
    scored = grading_config(config, suites, reward_model=str(models["one"])), models, suites
    best = run(scored, sampler("1", "2", "2"), EvalSettings(k=3, max_tokens=8, select="best_of_n"))
    figures = best["one"]["sums"].figures  # the first sample scores highest, and is right for the gold 1
    assert figures["selected"] == {"by": "best_of_n", "accuracy": pytest.approx(1 / 3)}
    assert figures["best_of_n"][3] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="one has no majority"):
        run(rig, sampler("1"), EvalSettings(k=1, max_tokens=8, select="majority"))


def test_k_is_the_suites_own_unless_it_is_given(rig: Any) -> None:
    config, models, suites = rig
    fake = sampler("1")
    run((config, models, [suites[0]]), fake, EvalSettings(max_tokens=8, greedy=False))
    assert {request.num for request in fake.requests} == {16}
    assert {(r.sampling.temperature, r.sampling.top_p) for r in fake.requests} == {(0.6, 0.95)}
    lengths = {r.sampling.max_tokens for r in fake.requests}
    run((config, models, [suites[0]]), fake, EvalSettings(greedy=False))
    assert {r.sampling.max_tokens for r in fake.requests} - lengths == {64 - 7}, "what the context leaves"
    with pytest.raises(UserError, match="exceed the context of 64"):
        run(rig, fake, EvalSettings(max_tokens=60))


def test_grading_reports_format_and_language_and_keeps_what_a_user_set(tmp_path: Path) -> None:
    suites = [Suite("mine", "mine.jsonl", score="package:judge")]
    components = grading_config(make_config(tmp_path), suites).reward.components
    assert [(c.name, c.kind, c.weight) for c in components] == [
        ("accuracy", "accuracy", 1.0),
        ("format", "format", 0.0),
        ("language", "language", 0.0),
        ("score", "function", 1.0),
    ]
    assert components[2].language == "auto"
    assert components[3].applies({"suite": "mine"})
    assert not components[3].applies({"suite": "other"})
    own = make_config(tmp_path, "reward.components=[{name: mine, kind: format}]")
    assert [c.name for c in grading_config(own, []).reward.components] == ["mine"]


def test_a_suite_with_a_judge_of_its_own_passes_by_its_score(rig: Any) -> None:
    config, models, suites = rig
    judged = [Suite("judged", suites[0].source, score="package:judge")]
    with pytest.raises(ValueError, match="no reward component judges suite judged"):
        run((config, models, judged), sampler("1"), EvalSettings(k=1, max_tokens=8))
    fake = sampler("1")
    fake.scores = {"score": 0.5}
    scored = grading_config(config, judged), models, judged
    assert run(scored, fake, EvalSettings(k=1, max_tokens=8))["one"]["judged"].figures["pass_at_1"] == 0.0
    assert {request.record["spec"]["columns"]["suite"] for request in fake.requests} == {"judged"}
    fake.scores = {"score": 1.0}
    assert run(scored, fake, EvalSettings(k=1, max_tokens=8))["one"]["judged"].figures["pass_at_1"] == 1.0


def test_models_of_one_shape_share_an_engine(rig: Any, tmp_path: Path) -> None:
    models = rig[1]
    other = make_model_directory(tmp_path / "models" / "long", context=128)
    groups = engine_groups({"one": models["one"], "long": other, "two": models["two"]})
    assert [list(group) for group in groups] == [["one", "two"], ["long"]]


def test_the_command_starts_no_engine_when_everything_is_there(
    rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, models, suites = rig
    settings = EvalSettings(k=1, max_tokens=8)
    names = {str(path): path for path in models.values()}
    run((grading_config(make_config(tmp_path), suites), names, suites), sampler("1"), settings, tmp_path / "out")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(module, "Sampler", refuse)
    request = EvalRequest(list(names), suites, settings, out=tmp_path / "out", json_path=tmp_path / "all.json")
    assert run_evaluation(make_config(tmp_path), request) == 0
    assert "pass@1" in capsys.readouterr().out
    written = json.loads((tmp_path / "all.json").read_text())["results"]
    assert written[str(models["one"])]["sums"]["figures"]["pass_at_1"] == pytest.approx(1 / 3)


def test_standings_rate_the_models_among_people(
    rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{i} + 1?", "answer": str(i + 1), "contest_id": 7, "index": "AB"[i]} for i in range(2)]
    (tmp_path / "contest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suites = [*find_suites([str(tmp_path / "contest.jsonl")]), rig[2][0]]
    config, settings = grading_config(make_config(tmp_path), []), EvalSettings(k=2, max_tokens=8)
    names = {str(path): path for path in rig[1].values()}
    run((config, names, suites), sampler("1", "2"), settings, tmp_path / "out")  # every sample solves one of two
    monkeypatch.setattr(module, "Sampler", lambda *_, **__: pytest.fail("an engine was started"))
    seven = Contest("7", {"A": 1, "B": 1}, [2, 1, 0], [1500, 1500, 1500])
    request = EvalRequest(list(names), suites, settings, out=tmp_path / "out", standings={"7": seven})
    assert run_evaluation(make_config(tmp_path), request) == 0
    assert "1500" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = results["results"][str(rig[1]["one"])]
    assert found["contest"]["figures"]["contests"]["by_contest"] == {"7": pytest.approx(1500, abs=1e-4)}
    assert "contests" not in found["small"]["figures"]
    assert [(row.get("rating"), row.get("percentile")) for row in results["rows"][:2]] == [("1500", 0.0), (None, None)]
    for standings in (
        {"8": replace(seven, name="8")},
        {"7": replace(seven, points={"A": 1, "B": 1, "C": 1})},
    ):
        other = replace(request, standings=standings, out=None)
        with pytest.raises(UserError, match=r"--standings: no suite has all problems of a contest of it \([78]\)"):
            run_evaluation(make_config(tmp_path), other)
