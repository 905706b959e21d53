"""R1's whole recipe in miniature, the launcher killed -9 once in each stage: what is done stays, the rest goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from recipes.pipeline.config import load_pipeline
from recipes.pipeline.manifest import changed_outputs, read_manifest
from tests.integration.pipeline_rig import at_work, events_of, miniature, start
from tests.integration.river_rig import left_over

pytestmark = pytest.mark.timeout(1200)


def test_every_stage_survives_a_kill_and_the_table_is_whole(tmp_path: Path) -> None:
    config_path, log = miniature(tmp_path), tmp_path / "log"
    config = load_pipeline(config_path)
    root = tmp_path / "runs" / "mini"
    killed: list[str] = []
    finished: dict[str, str] = {}
    for name in [*config.stages, None]:
        process = start(config_path, log)
        try:
            if name is not None:
                kind, folder = config.stage(name).kind, root / "stages" / name
                while not at_work(folder, kind) and not (folder / "manifest.json").exists():
                    assert process.poll() is None, log.read_text()[-4000:]
                    time.sleep(0.05)
                if not (folder / "manifest.json").exists():
                    process.send_signal(signal.SIGKILL)
                    killed.append(name)
            else:
                assert process.wait(900) == 0, log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait()
        deadline = time.monotonic() + 10
        while left_over(root) and time.monotonic() < deadline:  # the kernel kills them; give it a moment
            time.sleep(0.1)
        assert left_over(root) == []
        for stage in config.stages:  # what was finished before is not run again
            manifest = read_manifest(root / "stages" / stage)
            if stage in finished:
                assert manifest is not None
                assert manifest.finished == finished[stage], stage
            elif manifest is not None:
                finished[stage] = manifest.finished
    assert len(killed) >= len(config.stages) - 2, f"only {killed} were caught at work"
    assert list(finished) == list(config.stages)
    _check_artefacts(root, list(config.stages))
    _check_training(root)
    _check_table(root, tmp_path)
    began = time.monotonic()
    process = start(config_path, log)
    assert process.wait(60) == 0
    assert time.monotonic() - began < 30, "a finished pipeline was not skipped"


def _check_artefacts(root: Path, stages: list[str]) -> None:
    """Every manifest holds, and every input is an output of an earlier stage."""
    made: dict[str, str] = {}
    for name in stages:
        manifest = read_manifest(root / "stages" / name)
        assert manifest is not None
        assert changed_outputs(manifest) == []
        for reference, artefact in manifest.inputs.items():
            assert made[reference] == artefact.digest, f"{name}: {reference}"
        made |= {f"@{name}.{output}": artefact.digest for output, artefact in manifest.outputs.items()}


def _check_training(root: Path) -> None:
    """The runs that were killed went on: every step is there once, in order, and no group is lost."""
    for name in ("r1_zero", "reasoning_rl", "rl_all", "student_rl"):
        run = root / "stages" / name / "run"
        steps = [row["step"] for row in events_of(run / "metrics.jsonl")]
        assert sorted(set(steps)) == [1, 2, 3], f"{name}: {steps}"
        assert json.loads((run / "summary.json").read_text())["groups_lost"] == 0
    figures = read_manifest(root / "stages" / "rejection_sample").figures  # type: ignore[union-attr]
    assert figures["sampled"] == 240
    assert 0 < figures["kept"] <= figures["correct"]
    rows = events_of(root / "stages" / "rl_all" / "run" / "metrics.jsonl")
    assert any("rewards/quality/mean" in row for row in rows), "no general prompt was trained on in the last steps"


def _check_table(root: Path, folder: Path) -> None:
    """Nine models, every column of the paper's table, one line in the results file, a report with samples."""
    rows = json.loads((root / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows][-2:] == ["student, distilled", "student, RL from scratch"]
    assert len(rows) == 9
    for column in ("pass@1", "cons@2", "length", "format", "language", "helpfulness", "safety", "quality"):
        assert all(isinstance(row[column], float) for row in rows), column
    assert len((folder / "runs" / "r1_mini.results.jsonl").read_text().splitlines()) == 1
    page = (root / "report.html").read_text()
    assert "Stage by stage" in page
    assert "<summary>samples</summary>" in page
