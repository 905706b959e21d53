"""Pieces of the stages: samples on disk that survive a kill, tokenizers that fit, what counts of a completion."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.errors import RunFailure, UserError
from common.lifecycle import StopFlag
from common.messages import Verdict
from launcher.pipeline_report import append_result, markdown, over_seeds, read_results
from launcher.sampling import Completion, SampledTask, SampleRequest
from launcher.stages import Interrupted, StageContext
from launcher.stages.evaluate import suite_figures, table_row
from launcher.stages.held_out import refuse_held_out
from launcher.stages.judging import make_asker, make_judge
from launcher.stages.preferences import make_preferences, pair_up, to_label
from launcher.stages.sampling import Sampled, SampleLog
from launcher.stages.selecting import graded_tasks, source_of
from launcher.stages.supervised import check_tokenizers, note_tokenizer, user_rows
from recipes.datasets import Example
from recipes.pipeline.config import Defaults, PreferenceSource, PreferencesStage, Problems, RejectionSampleStage
from recipes.stages.ask import Question, SamplerAsker
from recipes.stages.corpus import CorpusRow, write_corpus
from recipes.stages.endpoint import EndpointSettings
from recipes.stages.few_shot import parse_few_shot
from recipes.stages.judge import JudgeSettings
from recipes.stages.selection import SelectionSettings
from recipes.tiny_model import create_tokenizer


def _completion(text: str, *, passed: bool = True, clipped: bool = False) -> Completion:
    verdict = Verdict(outcome="pass" if passed else "fail", reward=float(passed), rewards={"format": 1.0, "x": None})
    return Completion(text, 7, clipped, verdict)


def _example(name: str = "sums/1", **columns: object) -> Example:
    return Example(name, "1 + 1 =", "2", None, "here", {"language": "en", **columns})


def test_samples_come_back_and_half_a_line_is_dropped(tmp_path: Path) -> None:
    log = SampleLog(tmp_path / "sampled.jsonl", "asked")
    assert log.read() == {}
    with log.appending() as append:
        append("a", [_completion("é"), _completion("no", passed=False)])
        append("b", [_completion("b")])
    whole = log.read()
    assert list(whole) == ["a", "b"]
    assert whole["a"][1].verdict.outcome == "fail"
    with log.path.open("a") as file:
        file.write('{"key": "c", "comple')
    assert log.read() == whole
    with log.appending() as append:
        append("c", [_completion("c")])
    assert list(SampleLog(log.path, "asked").read()) == ["a", "b", "c"]


def test_a_file_cut_off_in_its_first_line_is_begun_anew(tmp_path: Path) -> None:
    log = SampleLog(tmp_path / "sampled.jsonl", "asked")
    for end in (None, -1, -9):  # nothing but the first line; without its end; half of it
        with log.appending():
            pass
        log.path.write_bytes(log.path.read_bytes()[:end])
        assert log.read() == {}
        with log.appending() as append:
            append("a", [_completion("a")])
        assert list(log.read()) == ["a"]
        log.path.unlink()


def test_half_a_line_is_cut_off_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle of writing the file anew would lose every sample."""
    log = SampleLog(tmp_path / "sampled.jsonl", "asked")
    with log.appending() as append:
        append("a", [_completion("a")])
    whole = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write(b'{"key"')
    monkeypatch.setattr(Path, "write_bytes", lambda *_: pytest.fail("written anew"))
    assert list(log.read()) == ["a"]
    assert log.path.read_bytes() == whole


def test_samples_of_something_else_are_set_aside(tmp_path: Path) -> None:
    with SampleLog(tmp_path / "sampled.jsonl", "one model").appending() as append:
        append("a", [_completion("a")])
    assert SampleLog(tmp_path / "sampled.jsonl", "another").read() == {}
    assert (tmp_path / "sampled.before.jsonl").exists()


def test_corpora_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    for name in ("own", "other"):
        create_tokenizer().save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text("{}")
    tokenizer = tmp_path / "other" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"Calculate"', '"Calculated"'))
    corpus = tmp_path / "corpus.parquet"
    corpus.write_text("")
    check_tokenizers(str(tmp_path / "own"), [corpus])  # nothing is known of a user's own file
    note_tokenizer(corpus, tmp_path / "own")
    check_tokenizers(str(tmp_path / "own"), [corpus])
    with pytest.raises(UserError, match="rendered for another tokenizer"):
        check_tokenizers(str(tmp_path / "other"), [corpus])


def test_graded_tasks_carry_kind_language_and_the_part_that_counts() -> None:
    answer = "<think>a</think><answer>2</answer>"
    sampled = Sampled(
        _example(family="sums"), "1 + 1 =\n", [_completion(f"{answer}\n\nProblem: 2 + 2"), _completion("nothing")]
    )
    task = graded_tasks([sampled], prompts=["plain"], parse=parse_few_shot)[0]
    assert (task.source, task.language, task.kind, task.domain, task.prompt) == (
        "sums",
        "en",
        "reasoning",
        "math",
        "plain",
    )
    assert [(r.text, r.outcome) for r in task.responses] == [(answer, "pass"), ("nothing", "fail")]
    crashed = _completion("x", passed=False)
    crashed = replace(crashed, verdict=crashed.verdict.model_copy(update={"outcome": "error"}))
    assert graded_tasks([replace(sampled, completions=[crashed])])[0].responses[0].outcome == "fail"
    general = graded_tasks([replace(sampled, example=_example(kind="general", language="python"))])[0]
    assert (general.kind, general.domain, general.language) == ("general", "general", None)
    assert source_of(_example(source="https://host/gym")) == "gym"


def test_every_two_usable_samples_of_a_prompt_are_a_pair() -> None:
    said = [_completion(f"<think>t</think><answer>{text}</answer>") for text in ("a", "b", "c", "d", "e", "e ", "f")]
    nothing, cut = _completion("<think>t</think><answer> </answer>"), _completion("<answer>g</answer>", clipped=True)
    sampled = [Sampled(_example(family="notes"), "p", [said[0], cut, nothing, *said[1:]])]
    candidates, lost = pair_up(sampled, "summary")
    assert [(c.id, c.message, c.prompt, c.first, c.second, c.source) for c in candidates] == [
        ("sums/1/0", "1 + 1 =", "p", said[0].text, said[1].text, "notes"),
        ("sums/1/1", "1 + 1 =", "p", said[2].text, said[3].text, "notes"),
    ]
    assert lost == {"unusable": 2, "equal": 1}
    assert [reply.id for reply in to_label([Sampled(_example(), "p", [cut, _completion(" "), said[0]])])] == [
        "sums/1/2"
    ]


@pytest.mark.parametrize(
    ("aspect", "verdict", "says"),
    [
        ("helpful", "A=B", "helpful: no pair is kept .unusable 0, equal 0, judged 1, unclear 0, below margin 1, "),
        ("safety", "perhaps", "safety: no response is labelled .cut off 0, safe 0, unsafe 0, unclear 2."),
    ],
)
def test_a_judge_that_decides_nothing_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aspect: str, verdict: str, says: str
) -> None:
    sampled = [Sampled(_example(), "p", [_completion("<answer>a</answer>"), _completion("<answer>b</answer>")])]
    asker = SamplerAsker(lambda prompts: [f"VERDICT: {verdict}"] * len(prompts), model="m")
    monkeypatch.setattr("launcher.stages.preferences._sample", lambda context: {aspect: sampled})
    monkeypatch.setattr("launcher.stages.preferences.make_asker", lambda context: nullcontext(asker))
    source = PreferenceSource(problems=[Problems(path="p.jsonl")])
    settings = PreferencesStage(model="m", judge_model="j", **{aspect: source})  # type: ignore[arg-type]
    context = StageContext("preferences", settings, Defaults(), tmp_path, 3, StopFlag(), lambda text: None)
    with pytest.raises(UserError, match=says):
        make_preferences(context)
    assert not (tmp_path / f"{aspect}.parquet").exists()


def test_a_local_judge_has_keys_and_a_temperature_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_tokenizer().save_pretrained(tmp_path / "judge")
    (tmp_path / "judge" / "config.json").write_text('{"vocab_size": 1000, "max_position_embeddings": 512}')
    (tmp_path / "judge" / "model.safetensors").write_text("")
    seen: list[Any] = []

    class FakeSampler:
        def __init__(self, config: RunConfig, **_: Any) -> None:
            seen.append(config)

        def __enter__(self) -> FakeSampler:
            return self

        def __exit__(self, *_: object) -> None:
            seen.append("closed")

        def sample(self, requests: list[SampleRequest]) -> list[SampledTask]:
            seen.extend(requests)
            return [SampledTask(r.key, [_completion(f"reply {r.key}")]) for r in reversed(requests)]

    monkeypatch.setattr("launcher.stages.judging.Sampler", FakeSampler)
    settings = PreferencesStage(
        model="m",
        safety=PreferenceSource(problems=[Problems(path="p.jsonl")]),
        judge_model=str(tmp_path / "judge"),
        judge_temperature=0.5,
        run={"data": {"template": "r1_zero"}, "seed": 7, "reward": {"components": [{"name": "a", "kind": "accuracy"}]}},
        judge_run={"data": {"template": "bare"}},
    )
    context = StageContext("preferences", settings, Defaults(), tmp_path, 3, StopFlag(), lambda text: None)
    with make_asker(context) as asker:
        assert asker.model.endswith(", temperature 0.5")
        assert not seen  # no engine before the first question
        assert list(asker.ask([Question("a", "one?"), Question("b", "two?")])) == [(0, "reply 0"), (1, "reply 1")]
    config, first, _, closed = seen
    assert (config.data.template, config.seed, closed) == ("bare", 3, "closed")
    assert [c.kind for c in config.reward.components] == ["format"]  # accuracy applies to no reply of a judge
    assert first.sampling.temperature == 0.5
    assert "one?" in first.record["prompt"]
    assert "Assistant" not in first.record["prompt"]


@pytest.mark.parametrize("kind", ["preferences", "rejection_sample"])
def test_a_stop_while_an_endpoint_judges_is_no_failure(tmp_path: Path, kind: str) -> None:
    endpoint, problems = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m"), [Problems(path="p.jsonl")]
    settings: Any = PreferencesStage(model="m", safety=PreferenceSource(problems=problems), endpoint=endpoint)
    if kind == "rejection_sample":
        selection, judge = SelectionSettings(judge="confirm"), JudgeSettings(endpoint=endpoint)
        settings = RejectionSampleStage(model="m", problems=problems, selection=selection, judge=judge)
    context = StageContext(kind, settings, Defaults(), tmp_path, 3, StopFlag(), lambda text: None)
    make: Any = make_asker if kind == "preferences" else make_judge
    with pytest.raises(RunFailure, match="no connection"), make(context):
        raise RunFailure("no connection")
    context.stop.set()
    with pytest.raises(Interrupted), make(context):
        raise RunFailure("stopped after 1 of 2 new answers")


def test_conversations_of_a_user_go_through_the_chat_template(tmp_path: Path) -> None:
    tokenizer = create_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_text("")
    path = tmp_path / "mine.jsonl"
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "<think>a</think>hi"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    row = user_rows(path, str(tmp_path / "model"))[0]
    assert (row.prompt, row.response) == ("hello|", "<think>a</think>hi")


def test_a_row_of_the_table_by_hand() -> None:
    right = Sampled(_example("a"), "p", [_completion("<answer>2</answer>")] * 2)
    mixed = Sampled(
        _example("b"), "p", [_completion("<answer>3</answer>", passed=False), _completion("<answer>2</answer>")]
    )
    figures = {"eval_sums": suite_figures([right, mixed], general=False)}
    row = table_row("base", figures)
    assert row["sums pass@1"] == row["pass@1"] == 0.75
    assert row["cons@2"] == 0.5  # of a tie the answer given first, which is wrong here
    assert (row["length"], row["format"], row["language"]) == (7.0, 1.0, None)
    general = suite_figures([right], general=True)
    assert general["pass_at_1"] is None
    assert "safety" not in table_row("base", {**figures, "general": general})


def test_results_of_several_seeds_are_averaged_and_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r1.results.jsonl"
    for seed, value in ((0, 0.5), (1, 0.7), (1, 0.9)):
        append_result(path, {"name": f"r1-{seed}", "seed": seed, "rows": [{"model": "base", "pass@1": value}]})
    assert [line["seed"] for line in read_results(path)] == [0, 1]
    assert over_seeds(read_results(path)) == [{"model": "base", "pass@1": "0.700 ± 0.28"}]
    assert markdown([{"model": "base", "pass@1": 0.5}, {"model": "R1", "length": None}]).splitlines()[2:] == [
        "| base | 0.500 | - |",
        "| R1 | - | - |",
    ]


def test_a_corpus_that_holds_an_evaluation_problem_is_refused(tmp_path: Path) -> None:
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text(json.dumps({"prompt": "What is 6 + 8 + 8?", "answer": "22"}) + "\n")

    def corpus(problem: str) -> list[Path]:
        path = tmp_path / "corpus.parquet"
        row = CorpusRow("a", "sums", "en", problem, "p", "r", "reasoning", None, None, "here")
        write_corpus(path, [replace(row, id="first", problem="another"), row])
        return [path]

    refuse_held_out(corpus("What is 6 + 8 - 8?"), [str(held_out)], ngram=None)
    refuse_held_out(corpus("what is 6 + 8 + 8"), [], ngram=None)
    with pytest.raises(UserError, match=r"eval\.jsonl:1 and .*corpus\.parquet: row 2 share the whole problem"):
        refuse_held_out(corpus("what is 6 + 8 + 8"), [str(held_out)], ngram=None)
