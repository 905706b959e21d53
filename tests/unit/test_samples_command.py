"""`zeroq samples`: what is found below a directory, filters, the table, the page; and the report's samples."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from common.errors import UserError
from launcher.cli import main
from launcher.report import write_report
from launcher.samples import Filters, parse_steps, read_samples
from launcher.samples_command import show_table
from learner.samples import write_part
from tests.unit.launcher_history import write_history


def train_rows(steps: range) -> list[dict[str, Any]]:
    """Two rollouts a step: one passes, one fails."""
    return [
        {
            "step": step,
            "version": step,
            "task_id": f"train-{step}",
            "rollout": n,
            "source": None,
            "prompt": f"What is {step} + {n}?",
            "text": f"<think>{step}</think><answer></script>{step + n}</answer>",
            "reward": float(n) + 0.5,
            "rewards": [("accuracy", float(n)), ("format", 0.5)],
            "outcome": ("fail", "pass")[n],
            "detail": "",
            "advantage": 2.0 * n - 1,
            "staleness": 1,
            "num_tokens": 9,
            "clipped": False,
        }
        for step in steps
        for n in range(2)
    ]


def write_evaluation(path: Path) -> None:
    """As `zeroq eval --out` keeps them: two samples of one problem."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"suite": "aime", "id": "a/1", "prompt": "?", "response": "[4]", "reward": 1.0, "outcome": "pass"}
    row |= {"rewards": json.dumps({"accuracy": 1.0}), "num_tokens": 3, "answer": "4"}
    pq.write_table(pa.Table.from_pylist([row, row | {"reward": 0.0, "outcome": "fail"}]), path)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    root = tmp_path / "r1"
    write_part(root / "stages" / "r1_zero" / "run" / "samples", train_rows(range(1, 4)))
    write_part(root / "stages" / "r1_zero" / "run" / "samples", train_rows(range(4, 6)))
    write_part(root / "stages" / "reasoning_rl" / "samples", train_rows(range(1, 3)))
    write_evaluation(root / "stages" / "evaluate" / "aime" / "samples.parquet")
    (root / "stages" / ".evaluate.tmp").mkdir()
    write_evaluation(root / "stages" / ".evaluate.tmp" / "samples.parquet")
    return root


def ids(root: Path, limit: int | None = None, **filters: Any) -> list[str]:
    return [sample.id for sample in read_samples(root, Filters(**filters), limit).samples]


def test_all_files_of_a_pipeline_are_found_with_their_stages(pipeline: Path) -> None:
    found = read_samples(pipeline, Filters(), None)
    assert (found.num_read, found.num_matching, found.stages) == (16, 16, {"r1_zero", "reasoning_rl", "evaluate"})
    assert found.outcomes == {"pass", "fail"}
    assert [sample.id for sample in found.samples[:3]] == [
        "evaluate:aime:a/1#1",
        "evaluate:aime:a/1#2",
        "r1_zero:1:train-1/0",
    ]
    evaluated = found.samples[0]
    assert (evaluated.text, evaluated.answer, evaluated.rewards, evaluated.step) == (
        "[4]",
        "4",
        {"accuracy": 1.0},
        None,
    )
    assert found.samples[3].rewards == {"accuracy": 1.0, "format": 0.5}
    stage = pipeline / "stages" / "reasoning_rl"
    assert {sample.stage for sample in read_samples(stage, Filters(), None).samples} == {"reasoning_rl"}


def test_filters(pipeline: Path) -> None:
    assert ids(pipeline, stage="reasoning_rl", outcome="pass") == [
        "reasoning_rl:1:train-1/1",
        "reasoning_rl:2:train-2/1",
    ]
    assert ids(pipeline, steps=(4, 5), max_reward=0.5) == ["r1_zero:4:train-4/0", "r1_zero:5:train-5/0"]
    assert ids(pipeline, steps=(2, 2), stage="r1_zero", min_reward=0.6) == ["r1_zero:2:train-2/1"]
    assert ids(pipeline, id="evaluate:aime:a/1") == ["evaluate:aime:a/1#1", "evaluate:aime:a/1#2"]
    assert ids(pipeline, id="r1_zero:1:train-1/0") == ["r1_zero:1:train-1/0"]
    assert ids(pipeline, id="r1_zero:1:train-") == []
    found = read_samples(pipeline, Filters(outcome="fail"), 2)
    assert (len(found.samples), found.num_matching) == (2, 8)


def test_steps_are_one_or_a_range() -> None:
    assert (parse_steps("7"), parse_steps("7-12")) == ((7, 7), (7, 12))
    for bad in ("", "x", "7-", "12-7", "-3", "1-2-3"):
        with pytest.raises(UserError, match="--step"):
            parse_steps(bad)


def test_the_table_has_a_line_for_each(pipeline: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    show_table(read_samples(pipeline, Filters(stage="r1_zero"), 3), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"r1_zero:1:train-1/1\s+│\s+1.5\s+│\s+pass\s+│\s+9\s+│\s+1\s+│\s+1\s+│", text)
    assert "3 of 10 that match, 10 read" in text
    narrow = Console(file=io.StringIO(), width=80)
    show_table(read_samples(pipeline, Filters(stage="r1_zero"), 3), narrow)
    assert "r1_zero:1:train-1/1" in narrow.file.getvalue()  # type: ignore[attr-defined]


def test_the_command_shows_one_in_full_and_writes_json(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samples", str(pipeline), "--id", "r1_zero:2:train-2/1"]) == 0
    shown = capsys.readouterr().out
    assert "What is 2 + 1?" in shown
    assert "<think>2</think><answer></script>3</answer>" in shown
    assert "rewards/accuracy=1" in shown
    assert main(["samples", str(pipeline), "--stage", "evaluate", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["suite"], line["reward"]) for line in lines] == [("aime", 1.0), ("aime", 0.0)]


def test_the_page_holds_everything_and_loads_nothing(pipeline: Path, tmp_path: Path) -> None:
    assert main(["samples", str(pipeline), "--html", str(tmp_path / "page.html"), "--min-reward", "0.5"]) == 0
    page = (tmp_path / "page.html").read_text()
    data = page.split('<script type="application/json" id="samples">')[1].split("</script>")[0]
    kept = json.loads(data)
    assert len(kept) == 15  # all but one
    assert kept[1]["text"] == "<think>1</think><answer></script>1</answer>"  # its tag could not end the element
    assert page.count("</script>") == 2
    assert not re.search(r"(src|href)=|https?://|innerHTML", page)
    assert all(f'name="{name}"' in page for name in ("stage", "outcome", "first", "last", "low", "high", "words"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "no such directory; name a run"),
        (["empty"], "no samples*.parquet there or below"),
        (["r1", "--stage", "sft"], "there are evaluate, r1_zero, reasoning_rl"),
        (["r1", "--id", "x"], "no such sample"),
        (["r1", "--step", "5-4"], "--step 5-4"),
        (["r1", "--limit", "0"], "--limit 0"),
        (["torn"], "cannot be read as Parquet"),
        (["other"], "no file of samples; it has x"),
        (["r1", "--html", "r1"], "--html r1: cannot be written"),
    ],
)
def test_wrong_input_is_one_line(
    pipeline: Path,
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "torn", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "torn" / "samples.parquet").write_bytes(b"PAR1 and nothing")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other" / "samples.parquet")
    assert main(["samples", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_report_shows_samples_from_first_to_last_step(tmp_path: Path) -> None:
    paths = write_history(tmp_path / "run")
    assert "<h2>Responses</h2>" not in write_report(paths).read_text()
    write_part(paths.root / "samples", train_rows(range(1, 60)))
    page = write_report(paths).read_text()
    assert "What is 1 + 0?" in page
    assert "What is 59 + 1?" in page
    assert page.count("&lt;/think&gt;") == 12
    (paths.root / "samples" / "samples-00000060-00000060.parquet").write_bytes(b"half")
    assert "cannot be read as Parquet" in write_report(paths).read_text()  # said in its place; the report stands
