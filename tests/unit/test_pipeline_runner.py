"""`zeroq pipeline`: what is skipped, continued, refused and set aside. The stages themselves are stand-ins here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config_file import validate
from common.errors import EXIT_INTERRUPTED, EXIT_OK, RunFailure, UserError
from launcher import pipeline as module
from launcher.pipeline import PipelineRequest, run_pipeline
from launcher.stages import Interrupted, Outcome, StageContext

PIPELINE = """
run: {{name: mini, dir: {dir}}}
stages:
  world: {{kind: small_world}}
  sft: {{model: "@world.base", data: ["@world.corpus_base"]}}
  other: {{kind: sft, model: "@world.base", data: ["@world.corpus_base"]}}
  distill: {{kind: sft, model: "@sft.model", data: ["@world.corpus_base"]}}
"""


class Stages:
    """Counts calls; makes a file per output."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: Callable[[StageContext], None] = lambda context: None

    def __call__(self, kind: str) -> Callable[[StageContext], Outcome]:
        def work(context: StageContext) -> Outcome:
            self.calls.append(context.name)
            self.before(context)
            names = ("base", "corpus_base") if kind == "small_world" else ("model",)
            outputs = {}
            for name in names:
                outputs[name] = context.folder / name
                outputs[name].write_text(f"{context.name}: {getattr(context.settings, 'model', context.seed)}")
            return Outcome(outputs, {"loss": 1.0})

        return work


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    made = Stages()
    monkeypatch.setattr(module, "stage_function", made)
    monkeypatch.setattr(module, "check_stages", lambda config: None)
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "r1.yaml"
    path.write_text(PIPELINE.format(dir=tmp_path / "runs"))
    return path


def _run(config: Path, *overrides: str, **options: str) -> int:
    return run_pipeline(PipelineRequest(config, list(overrides), **options))  # type: ignore[arg-type]


def test_stages_run_in_order_and_are_skipped_when_done(stages: Stages, config: Path) -> None:
    assert _run(config, until="sft") == EXIT_OK
    assert stages.calls == ["world", "sft"]
    assert _run(config) == EXIT_OK
    assert stages.calls == ["world", "sft", "other", "distill"]
    folder = config.parent / "runs" / "mini" / "stages"
    manifest = json.loads((folder / "distill" / "manifest.json").read_text())
    assert manifest["inputs"]["@sft.model"]["path"] == str(folder / "sft" / "model")
    assert (folder / "distill" / "model").read_text() == f"distill: {folder / 'sft' / 'model'}"
    assert "<h2>distill</h2>" in (config.parent / "runs" / "mini" / "report.html").read_text()


def test_a_failed_stage_keeps_what_is_done_and_goes_on(stages: Stages, config: Path) -> None:
    def fail(context: StageContext) -> None:
        if context.name == "sft" and stages.calls.count("sft") == 1:
            (context.folder / "half").write_text("")
            raise RunFailure("the learner died")

    stages.before = fail
    with pytest.raises(RunFailure, match="stage sft: the learner died"):
        _run(config)
    assert _run(config) == EXIT_OK
    assert stages.calls == ["world", "sft", "sft", "other", "distill"]
    assert (config.parent / "runs" / "mini" / "stages" / "sft" / "half").exists()


def test_a_stop_ends_with_130_and_the_stage_goes_on_later(stages: Stages, config: Path) -> None:
    def stop(context: StageContext) -> None:
        if context.name == "sft" and stages.calls.count("sft") == 1:
            raise Interrupted("stopped")

    stages.before = stop
    assert _run(config) == EXIT_INTERRUPTED
    assert _run(config) == EXIT_OK
    assert stages.calls.count("sft") == 2


def test_changed_defaults_of_sampling_are_refused(stages: Stages, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    stage = "{model: m, judge_model: j, safety: {problems: [{path: p}]}}"
    path.write_text(f"run: {{dir: {tmp_path}, name: made}}\nstages: {{preferences: {stage}}}\n")
    assert _run(path) == EXIT_OK
    with pytest.raises(UserError, match="stage preferences is done, but not as it would be run now"):
        _run(path, "defaults.sampling.actor.replicas=2")


def test_changed_settings_are_refused_until_redo(stages: Stages, config: Path) -> None:
    _run(config)
    with pytest.raises(UserError, match=r"stage sft is done, but not .*: data\[?.*--redo sft"):
        _run(config, "stages.sft.data=[a.parquet]")
    calls = len(stages.calls)
    assert _run(config, "stages.sft.data=[a.parquet]", redo="sft") == EXIT_OK
    assert stages.calls[calls:] == ["sft", "distill"]  # what does not depend on it stays
    kept = list((config.parent / "runs" / "mini" / "stages").glob(".sft.before-*"))
    assert len(kept) == 1
    assert (kept[0] / "manifest.json").exists()


def test_outputs_changed_by_hand_are_refused(stages: Stages, config: Path) -> None:
    _run(config)
    (config.parent / "runs" / "mini" / "stages" / "world" / "base").write_text("other weights")
    with pytest.raises(UserError, match=r"stage world is done, but not as it would be run now: base .* was changed"):
        _run(config)


def test_a_lone_stage_needs_its_inputs(stages: Stages, config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage sft: @world\.base is not there: the stage world is not done"):
        _run(config, only="sft")
    model = tmp_path / "model"
    model.write_text("weights")
    assert _run(config, f"stages.sft.model={model}", f"stages.sft.data=[{model}]", only="sft") == EXIT_OK
    assert stages.calls == ["sft"]


def test_unknown_stage_names_and_foreign_directories(stages: Stages, config: Path) -> None:
    with pytest.raises(UserError, match="--redo sftt: no such stage"):
        _run(config, redo="sftt")
    root = config.parent / "runs" / "mini"
    root.mkdir(parents=True)
    (root / "config.yaml").write_text("model: x")
    with pytest.raises(UserError, match="is a run's directory"):
        _run(config)
    assert stages.calls == []


def test_what_was_passed_to_a_stage_is_validated(stages: Stages, config: Path) -> None:
    seen: list[object] = []
    stages.before = lambda context: seen.append(context.settings)
    _run(config, "seed=7", until="world")
    assert getattr(seen[0], "scale", None) == 1.0
    assert validate(type(seen[0]), {"kind": "small_world"}, "x") == seen[0]  # type: ignore[type-var]
