"""Pipelines as data: references, manifests, and what a wrong configuration says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from launcher.stages.checks import check_stages
from recipes.pipeline.config import load_pipeline, merged
from recipes.pipeline.manifest import (
    Artefact,
    Manifest,
    artefact,
    changed_outputs,
    differences,
    digest,
    read_manifest,
    write_manifest,
)
from recipes.pipeline.references import Reference, check_references, parse_reference, references, resolve

SMALL = """
stages:
  world: {kind: small_world}
  sft: {model: "@world.base", data: ["@world.corpus_base"]}
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


def _load(tmp_path: Path, text: str, *overrides: str) -> object:
    return load_pipeline(_write(tmp_path, text), list(overrides))


def test_references_are_found_resolved_and_escaped() -> None:
    tree = {"model": "@a.model", "data": ["@b.corpus", {"path": "@a.run"}], "text": "@@a.model", "n": 3}
    assert [(key, str(ref)) for key, ref in references(tree)] == [
        ("model", "@a.model"),
        ("data[0]", "@b.corpus"),
        ("data[1].path", "@a.run"),
    ]
    resolved = resolve(tree, lambda ref: f"/{ref.stage}/{ref.output}")
    assert resolved == {"model": "/a/model", "data": ["/b/corpus", {"path": "/a/run"}], "text": "@a.model", "n": 3}
    assert parse_reference("name@host") is None
    assert parse_reference("@a.b.c") == Reference("a", "b.c")


@pytest.mark.parametrize("text", ["@", "@a", "@a.", "@.b", "@a b.c"])
def test_a_malformed_reference_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError, match=r"data\[1\]: .*@STAGE.OUTPUT"):
        list(references({"data": ["x", text]}))


def test_references_to_later_stages_and_unknown_outputs_are_refused() -> None:
    with pytest.raises(UserError, match=r"did you mean @r1_zero\.model"):
        check_references({"model": "@r1_zro.model"}, "stages.sft", {"r1_zero": ("model", "run")})
    with pytest.raises(UserError, match="makes model, run, not 'corpus'"):
        check_references({"data": ["@r1_zero.corpus"]}, "stages.sft", {"r1_zero": ("model", "run")})


def test_a_pipeline_loads_with_overrides_and_kinds_by_name(tmp_path: Path) -> None:
    config = _load(tmp_path, SMALL, "stages.world.scale=0.5", "seed=3")
    assert config.stage("world").scale == 0.5  # type: ignore[attr-defined]
    assert config.stage("sft").kind == "sft"  # type: ignore[attr-defined]
    assert config.seed == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.sft.kind=stf", r"stages\.sft\.kind = 'stf': no such kind of stage; did you mean sft"),
        ("stages.sftt.epochs=1", r"stages\.sftt: no such stage, .* did you mean stages\.sft\?"),
        ("stages.sft.modl=x", r"stages\.sft: unknown key modl; did you mean model"),
        ("stages.sft.model=@later.model", r"stages\.sft\.model = @later\.model: no stage 'later' comes before"),
        ("stages.world.scale=0", r"stages\.world: scale = 0: "),
        ("stages.sft=3", r"stages\.sft: expected settings"),
        ("defaults.run.model=@world.base", r"defaults\.run\.model = @world\.base: no stage 'world' comes before"),
        ("stages.preferences={model: m, endpoint: {base_url: 'http://h/v1', model: j}}", "name the prompts of helpful"),
        ("stages.preferences={model: m, safety: {problems: [{path: p}]}}", "name who judges: endpoint"),
        (
            "stages.preferences={model: m, judge_model: j, helpful: {problems: [{path: p}], sampling: {samples: 1}}}",
            r"helpful\.sampling\.samples: 1 makes no pair; sample 2 or more",
        ),
        (
            "stages.preferences={model: m, judge_model: j, judge_temperature: 0, helpful: {problems: [{path: p}]}}",
            r"judging\.queries: 4, and a judge at temperature 0 says the same each time",
        ),
        (
            "stages.preferences={model: m, endpoint: {base_url: http://h, model: j}, helpful: {problems: [{path: p}]}}",
            r"judging\.queries: 4, and a judge at temperature 0 says the same each time",
        ),
        ("stages.reward_model={model: m}", "name the preferences of helpful, of safety, or of both"),
        ("stages.sft.kind=[sft]", r"stages\.sft\.kind = \['sft'\]: a stage's kind is a name"),
        ("stages={'a b': {kind: sft}}", r"stages\.'a b': a stage's name has small letters"),
        ('stages={"a\\nb": {kind: sft}}', r"stages\.'a.nb': a stage's name has small letters"),
        ("stagess=3", "unknown key stagess; did you mean stages"),
    ],
)
def test_wrong_pipelines_are_refused_in_one_line(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _load(tmp_path, SMALL, change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["preferences", "reward_model"])
def test_a_stage_makes_what_it_is_asked_for(tmp_path: Path, kind: str) -> None:
    """Whoever refers to the rest hears of it now, and not after the stages before."""
    first = {
        "preferences": "{kind: preferences, model: m, judge_model: j, safety: {problems: [{path: p}]}}",
        "reward_model": "{kind: reward_model, model: m, safety: labels.parquet}",
    }[kind]
    text = f"stages: {{first: {first}, then: {{kind: reward_model, model: m, safety: '@first.%s'}}}}"
    config = load_pipeline(_write(tmp_path, text % "safety"))
    assert config.outputs("first") == ("safety",)
    with pytest.raises(UserError, match=r"@first\.helpful: first makes safety, not 'helpful'"):
        load_pipeline(_write(tmp_path, text % "helpful"))


def test_both_engines_of_preferences_are_checked_before_the_first_stage(tmp_path: Path) -> None:
    text = "stages: {preferences: {model: m, judge_model: j, safety: {problems: [{path: p}]}}}"
    check_stages(load_pipeline(_write(tmp_path, text)))
    for section in ("run", "judge_run"):
        with pytest.raises(UserError, match=rf"stages\.preferences\.{section}: unknown key actr"):
            check_stages(load_pipeline(_write(tmp_path, text), [f"stages.preferences.{section}.actr.device=cpu"]))


def test_merging_goes_key_by_key_and_replaces_lists() -> None:
    assert merged({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": 3}, {"a": {"b": {"e": 1}}}) == {
        "a": {"b": {"e": 1}, "c": [2]},
        "d": 3,
    }


def test_a_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = digest(folder)
    assert digest(folder) == first
    (folder / "a").rename(folder / "b")
    renamed = digest(folder)
    (folder / "b").write_text("2")
    assert len({first, renamed, digest(folder)}) == 3
    with pytest.raises(UserError, match="is missing"):
        digest(tmp_path / "nothing")


def test_a_manifest_comes_back_and_tells_what_changed(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.parquet"
    corpus.write_text("rows")
    made = Manifest(
        stage="sft",
        kind="sft",
        seed=0,
        settings={"model": "m", "job": {"sft": {"lr": 1e-4}}},
        inputs={"@a.corpus": Artefact("x", "1")},
        outputs={"corpus": artefact(corpus)},
        figures={"loss": 0.5},
    )
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, made)
    found = read_manifest(tmp_path)
    assert found is not None
    assert found.finished
    assert (found.settings, found.inputs, found.outputs) == (made.settings, made.inputs, made.outputs)
    assert differences(found, made.settings, 0, made.inputs) == []
    assert differences(found, {"model": "m", "job": {"sft": {"lr": 2e-4}}}, 1, {"@a.corpus": Artefact("y", "2")}) == [
        "seed 0 -> 1",
        "job.sft.lr 0.0001 -> 0.0002",
        "input @a.corpus is another",
    ]
    later = {**made.settings, "ngram": 10, "held_out": []}  # keys that a newer version has
    assert differences(found, later, 0, made.inputs, defaults={"ngram": 10, "held_out": []}) == []
    assert differences(found, later, 0, made.inputs, defaults={"ngram": 3, "held_out": []}) == ["ngram nothing -> 10"]
    assert changed_outputs(found) == []
    corpus.write_text("row")
    assert "was changed" in changed_outputs(found)[0]
    corpus.unlink()
    assert "is missing" in changed_outputs(found)[0]


def test_a_broken_manifest_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("{")
    with pytest.raises(UserError, match="move the folder away"):
        read_manifest(tmp_path)
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        read_manifest(tmp_path)
