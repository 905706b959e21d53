"""The watch for reward hacking on made-up histories: it speaks where the score runs away, and only there."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.config import RewardComponent, RewardSection, dump_config
from common.lifecycle import RunPaths
from evaluator.compose import grade_group
from launcher.display import LiveDisplay, PlainDisplay
from launcher.hacking import MIN_STEPS, WINDOW, Watch, find_hacking, spearman, trend
from launcher.monitor import RunView
from launcher.report import read_view, write_report
from launcher.reward_plots import draw_rewards
from launcher.summary import make_summary, summary_rows
from tests.unit.launcher_history import STATUS, write_history
from tests.unit.launcher_inputs import make_config

WATCH = Watch(("helpful",), ("quality",))
Curve = Callable[[float], float]


def history(
    score: Curve,
    quality: Curve,
    length: Curve,
    *,
    steps: int = 120,
    noise: float = 0.15,
    seed: int = 0,
    within: float = 0.0,
) -> list[dict[str, Any]]:
    """Rows over `steps` general steps after 30 without; the curves take a time 0..1."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = [{"step": step, "completions/mean_length": 80.0} for step in range(1, 31)]
    for index in range(steps):
        at = index / max(1, steps - 1)
        rows.append(
            {
                "step": 31 + index,
                "completions/mean_length": 80.0,
                "rewards/helpful/mean": score(at) + rng.gauss(0, noise),
                "rewards/helpful/mean_length": length(at) + rng.gauss(0, 20 * noise),
                "rewards/helpful/length_correlation": within + rng.gauss(0, 0.1),
                "rewards/quality/mean": quality(at) + rng.gauss(0, noise),
            }
        )
    return rows


def kinds(rows: list[dict[str, Any]], evaluations: list[dict[str, Any]] | None = None) -> list[tuple[str, str]]:
    return [(found.kind, found.against) for found in find_hacking(rows, evaluations or [], WATCH)]


@pytest.mark.parametrize("seed", range(5))
def test_a_score_that_rises_while_quality_falls_is_told(seed: int) -> None:
    rows = history(lambda t: 2 * t, lambda t: 0.8 - 0.6 * t, lambda t: 60, seed=seed)
    (found,) = find_hacking(rows, [], WATCH)
    assert (found.kind, found.score, found.against) == ("quality", "helpful", "quality")
    assert (found.first_step, found.last_step) == (51, 150)
    assert "helpful rose 0." in found.text
    assert "while quality fell" in found.text
    assert "\n" not in found.text


@pytest.mark.parametrize("seed", range(5))
def test_honest_learning_is_not(seed: int) -> None:
    assert kinds(history(lambda t: 2 * t, lambda t: 0.4 + 0.5 * t, lambda t: 60 + 90 * t, seed=seed)) == []
    assert kinds(history(lambda t: 2 * t, lambda t: 0.6, lambda t: 60, seed=seed)) == []


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_not(seed: int) -> None:
    assert kinds(history(lambda t: 0.5, lambda t: 0.5, lambda t: 60, seed=seed)) == []
    # a falling quality is bad, but is not the reward model's doing while its score stands still
    assert kinds(history(lambda t: 0.5, lambda t: 0.8 - 0.6 * t, lambda t: 60 + 90 * t, seed=seed)) == []


def test_length_that_buys_the_score_is_told_unless_quality_rises_too() -> None:
    rows = history(lambda t: 2 * t, lambda t: 0.5, lambda t: 60 + 90 * t)
    (found,) = find_hacking(rows, [], WATCH)
    assert found.kind == "length"
    assert "and so did the length of what it judges" in found.text
    within = history(lambda t: 2 * t, lambda t: 0.5, lambda t: 60, within=0.7)
    (found,) = find_hacking(within, [], WATCH)
    assert found.kind == "length"
    assert "correlate at 0.7" in found.text


def test_held_out_figures_count_as_quality() -> None:
    rows = history(lambda t: 2 * t, lambda t: 0.5, lambda t: 60)

    def evaluations(key: str, values: list[float], first: int = 60) -> list[dict[str, Any]]:
        return [{"step": first + 20 * i, key: value} for i, value in enumerate(values)]

    falling = [0.5, 0.45, 0.3, 0.2]
    assert kinds(rows, evaluations("pass_at_1", falling)) == [("quality", "held-out pass@1")]
    assert kinds(rows, evaluations("general/quality/mean", falling)) == [("quality", "held-out quality")]
    assert kinds(rows, evaluations("pass_at_1", falling[::-1])) == []
    assert kinds(rows, evaluations("pass_at_1", falling[:3])) == []  # too few to tell
    assert kinds(rows, evaluations("pass_at_1", falling, first=1)) == []  # most of it before the score began


def test_only_the_latest_steps_count_and_there_must_be_enough() -> None:
    hacked: Curve = lambda t: 2 * t  # noqa: E731
    early = history(hacked, lambda t: 0.8 - 0.6 * t, lambda t: 60)
    later = [{**row, "step": row["step"] + 200} for row in history(lambda t: 2, lambda t: 0.2, lambda t: 60)[30:]]
    assert kinds(early + later[:WINDOW]) == []
    assert kinds(history(hacked, lambda t: 0.8 - 0.6 * t, lambda t: 60, steps=MIN_STEPS - 1, noise=0.0)) == []
    assert kinds(history(hacked, lambda t: 0.8 - 0.6 * t, lambda t: 60, steps=MIN_STEPS, noise=0.0)) != []
    assert find_hacking(early, [], Watch((), ("quality",))) == []


def test_spearman_by_hand_and_with_ties() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    # ranks 0 1 2 3 4 against 1 0 3 2 4: 1 - 6 * 4 / (5 * 24)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)
    # ties: ranks 0.5 0.5 2 against 0 1 2
    assert spearman([1, 1, 5], [3, 4, 9]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([], []) is None
    assert trend([(1, 1.0), (2, 2.0), (3, 3.0)]) is None
    assert trend([(i, float(-i)) for i in range(37)]) == pytest.approx(-1.0)


# ------------------------------------------------------------------ where it is shown


def components() -> list[RewardComponent]:
    return [
        RewardComponent(name="accuracy"),
        RewardComponent(name="form", kind="format"),
        RewardComponent(name="tongue", kind="language"),
        RewardComponent(name="helpful", kind="reward_model", model="models/helpful", when={"kind": "general"}),
        RewardComponent(name="quality", kind="function", function="mine:quality", weight=0.0),
    ]


def view_and_config(folder: Path, rows: list[dict[str, Any]]) -> tuple[RunView, Any]:
    config = make_config(folder)
    config = config.model_copy(update={"reward": RewardSection(components=components())})
    view = read_view(write_history(folder / "run", steps=0))
    view.add_metrics(
        [{"time": 100.0 + row["step"], "rewards/form/mean": 0.9, "rewards/tongue/mean": 0.7} | row for row in rows]
    )
    return view, config


def test_the_watch_is_read_from_the_rewards(tmp_path: Path) -> None:
    _, config = view_and_config(tmp_path, [])
    assert Watch.of(config) == WATCH


def test_summary_and_figures_show_it(tmp_path: Path) -> None:
    rows = history(lambda t: 2 * t, lambda t: 0.8 - 0.6 * t, lambda t: 60 + 90 * t)
    view, config = view_and_config(tmp_path, rows)
    plots = draw_rewards(view, config)
    assert plots.keys() == {"rates", "hacking"}
    assert all(png.startswith(b"\x89PNG") for _, png in plots.values())
    paths = write_history(tmp_path / "other")
    summary = make_summary(paths, config, view, STATUS, 1.0, "finished")
    assert len(summary["reward_hacking"]) == 2
    assert any("while quality fell" in value for name, value, _ in summary_rows(summary) if name == "warning")
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    dump_config(config, paths.config)
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in view.rows))
    page = write_report(paths, summary).read_text()
    assert "while quality fell" in page
    assert "Reward models against length" in page
    assert (tmp_path / "other" / "plots" / "hacking.png").exists()
    quiet = make_summary(paths, make_config(tmp_path), view, STATUS, 1.0, "finished")
    assert quiet["reward_hacking"] == []
    assert draw_rewards(view, make_config(tmp_path)) == {}  # its format component is called otherwise


def test_the_summary_has_the_rewards_of_general_prompts_before_and_after(tmp_path: Path) -> None:
    view = read_view(write_history(tmp_path / "run"))
    view.evaluations[0] |= {"general/helpful/mean": 0.1, "general/length/mean": 9.0}
    view.evaluations[-1] |= {"general/helpful/mean": 0.4}
    summary = make_summary(RunPaths(tmp_path / "run"), make_config(tmp_path), view, STATUS, 1.0, "finished")
    assert summary["general_before"] == {"helpful": 0.1, "length": 9.0}
    assert summary["general_after"] == {"helpful": 0.4}


def test_a_plain_display_warns_once_and_a_live_one_shows_it(tmp_path: Path) -> None:
    rows = history(lambda t: 2 * t, lambda t: 0.8 - 0.6 * t, lambda t: 60)
    view, config = view_and_config(tmp_path, rows)
    stream = io.StringIO()
    display = PlainDisplay(config, stream)
    display.update(view)
    display.update(view)
    assert stream.getvalue().count("warning: reward hacking? steps 51-150: helpful rose") == 1
    console = Console(file=io.StringIO(), width=200)
    console.print(LiveDisplay(config, console).render(view))
    assert "reward hacking? steps 51-150: helpful rose" in console.file.getvalue()  # type: ignore[attr-defined]
    silent = io.StringIO()
    PlainDisplay(make_config(tmp_path), silent).update(view)
    assert "warning" not in silent.getvalue()


def test_a_component_of_weight_0_is_reported_and_not_rewarded() -> None:
    quality = RewardComponent(name="quality", kind="function", function=f"{__name__}:constant_quality", weight=0.0)
    reward = RewardSection(components=[RewardComponent(name="form", kind="format", mode="lenient"), quality])
    verdicts = grade_group("Say it.", ["<think>a</think><answer>b</answer>", "no"], {"kind": "none"}, reward)
    assert [verdict.rewards["quality"] for verdict in verdicts] == [0.25, 0.25]
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0]
    assert [verdict.outcome for verdict in verdicts] == ["pass", "fail"]


def constant_quality(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [0.25] * len(completions)
