"""Readable rollouts of a run: which are kept, what is said of them, and what a resumed run throws away."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.config import LoggingSection
from learner import samples
from learner.batch import build_batch
from learner.samples import SampleLog
from tests.learner_rig import make_config, make_group


def settings(per_step: int | None = None, max_mb: int = 1024) -> LoggingSection:
    return LoggingSection(samples_per_step=per_step, samples_max_mb=max_mb)


def read(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def fill(log: SampleLog, first: int, last: int, groups: int = 2) -> None:
    for step in range(first, last + 1):
        log.add(step, step, [make_group(step * groups + n, versions=step) for n in range(groups)], [0.0] * 4 * groups)


def test_a_row_says_all_about_its_rollout(tmp_path: Path) -> None:
    group = make_group(3, versions=[[1, 2], [2], [2], [2]], rewards=[1, 0, 0, 1], texts=["é", "b", "", "d"])
    group = type(group)(**{**vars(group), "prompt": b"Wie viel ist 1 + 1?", "source": "sums"})
    other = make_group(4, versions=2, rewards=[0.25] * 4, finish="length")
    batch, _ = build_batch([group, other], 2, make_config("m").learner)
    log = SampleLog(tmp_path / "samples", settings())
    log.add(7, 2, [group, other], batch.advantages_N.tolist())
    log.close()
    rows = read(tmp_path / "samples")
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["samples-00000007-00000007.parquet"]
    assert rows[0] == {
        "step": 7,
        "version": 2,
        "task_id": "train-3",
        "rollout": 0,
        "source": "sums",
        "prompt": "Wie viel ist 1 + 1?",
        "text": "é",
        "reward": 1.0,
        "rewards": [("accuracy", 1.0)],
        "outcome": "pass",
        "detail": "",
        "advantage": pytest.approx(1, abs=1e-4),
        "staleness": 1,  # of its oldest token
        "num_tokens": 2,
        "clipped": False,
    }
    assert [row["advantage"] for row in rows] == pytest.approx([1, -1, -1, 1, 0, 0, 0, 0], abs=1e-4)
    assert [(row["task_id"], row["rollout"], row["clipped"]) for row in rows[4:]] == [
        ("train-4", n, True) for n in range(4)
    ]


def test_the_choice_is_fixed_by_seed_and_step(tmp_path: Path) -> None:
    chosen = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        log = SampleLog(tmp_path / name, settings(3), seed=seed)
        fill(log, 1, 40)
        log.close()
        assert log.num_kept == 120
        chosen.append([(row["step"], row["task_id"], row["rollout"]) for row in read(tmp_path / name)])
    assert chosen[0] == chosen[1] != chosen[2]
    assert {task.endswith(str(2 * step)) for step, task, _ in chosen[0]} == {True, False}  # of both groups


def test_none_are_kept_when_none_are_wanted(tmp_path: Path) -> None:
    log = SampleLog(tmp_path / "samples", settings(0))
    fill(log, 1, 3)
    log.close()
    assert not (tmp_path / "samples").exists()


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, settings(1))
    fill(log, 1, 4)
    log.flush()  # the checkpoint of step 4
    fill(log, 5, 6)
    log.close()
    (tmp_path / ".samples-00000007.parquet.1.tmp").write_bytes(b"half")
    again = SampleLog(tmp_path, settings(1), step=4)
    assert [path.name for path in tmp_path.iterdir()] == ["samples-00000001-00000004.parquet"]
    fill(again, 5, 5)
    again.close()
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3, 4, 5]
    SampleLog(tmp_path, settings(1), step=2)  # a part that goes across
    assert [row["step"] for row in read(tmp_path)] == [1, 2]
    SampleLog(tmp_path, settings(1), step=0)
    assert not list(tmp_path.iterdir())


def test_samples_end_at_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = SampleLog(tmp_path, settings(1, max_mb=1))
    monkeypatch.setattr(samples, "write_part", lambda folder, rows: 600_000)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 5):
            fill(log, step, step)
            log.flush()
        log.close()
    assert log.num_kept == 2
    assert "samples_max_mb" in caplog.text


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples, "write_part", fail)
    log = SampleLog(tmp_path, settings(1))
    with caplog.at_level(logging.WARNING):
        fill(log, 1, 2)
        log.flush()
        fill(log, 3, 3)
        log.close()
    assert caplog.text.count("No space left on device") == 1


def test_rows_are_dropped_and_counted_when_the_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go = threading.Event()
    monkeypatch.setattr(samples, "write_part", lambda folder, rows: go.wait(10) and 1)
    log = SampleLog(tmp_path, settings(1))
    for step in range(1, 20):
        fill(log, step, step)
        log.flush()  # returns at once, always
    go.set()
    log.close()
    assert log.num_dropped >= 19 - samples.MAX_WAITING - 1
    assert log.num_kept + log.num_dropped == 19
