"""`zeroq watch --html`: where its figures come from, how they are drawn, and what the page lets in."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from common.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from common.lifecycle import RunPaths, register_process
from common.pages import Page, PageServer
from launcher import cli
from launcher.panels import BOARDS
from launcher.panels.model import Panel, Target, Threshold
from launcher.run_directory import locked
from launcher.watch import options, scrape
from launcher.watch.charts import chart, clock, figure_text, level, nice_ticks, sparkline
from launcher.watch.page import RANGES, render, render_body
from launcher.watch.scrape import ScrapeSource, Series
from launcher.watch.server import HEADERS, serving
from launcher.watch.source import Line, NoSource, Span, StepRows, legend, panel_lines, thinned
from launcher.watch.targets import ScrapeTarget, find_targets
from launcher.watch.watcher import Watcher
from tests.unit.launcher_history import write_history

ALL = Span(0.0, 1e10)
STATES = "sum by (state) (zeroq_actor_state)"  # an expression of the panels
PANEL = Panel("Title", "Words.", (Target("a"),))


class Exporter:
    """A process's exporter: a counter and a gauge, on a free port."""

    def __init__(self, paths: RunPaths, name: str, role: str) -> None:
        self.registry = CollectorRegistry()
        self.tokens = Counter("zeroq_actor_tokens_generated", "Tokens.", registry=self.registry)
        self.states = Gauge("zeroq_actor_state", "State.", ["state"], registry=self.registry)
        self.states.labels("current").set(1)
        self._server, self._thread = start_http_server(0, addr="127.0.0.1", registry=self.registry)
        self.port = int(self._server.server_port)
        register_process(paths, name, role, self.port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    made = Exporter(RunPaths(tmp_path), "actor-0", "actor")
    yield made
    made.close()


def test_targets_are_what_processes_registered(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert find_targets(paths) == []
    register_process(paths, "actor-0", "actor", 9400)
    register_process(paths, "launcher", "launcher", None)
    (paths.processes / "half.json").write_text('{"name": "ha')
    (paths.processes / "list.json").write_text("[]")
    assert find_targets(paths) == [ScrapeTarget("actor-0", "actor", "127.0.0.1:9400")]
    assert find_targets(paths)[0].labels == {"job": "zeroq", "instance": "actor-0", "component": "actor"}
    register_process(paths, "launcher", "launcher", 9401)
    assert find_targets(paths)[1].labels["component"] == "autoscaler"


def test_the_page_scrapes_and_finds_a_restarted_process(tmp_path: Path, exporter: Exporter) -> None:
    paths = RunPaths(tmp_path)
    rate = Target("sum by (instance) (rate(zeroq_actor_tokens_generated_total[$__rate_interval]))", "{{instance}}")
    up, state = Target("up", "{{instance}}"), Target("zeroq_actor_state", "{{state}}")
    alerts = Target('count(ALERTS{alertstate="firing"}) or vector(0)')
    source = ScrapeSource(paths, [rate, up, state, alerts])
    for moment in range(6):
        source.scrape(1000.0 + 2 * moment)
        exporter.tokens.inc(10)
    assert source.lines(state, ALL) == [Line("current", tuple((1000.0 + 2 * i, 1.0) for i in range(6)))]
    (line,) = source.lines(rate, ALL)
    assert line.name == "actor-0"
    assert line.points[-1][1] == pytest.approx(50 / 30, rel=0.2)  # a window of 30 s of which 10 are known
    exporter.close()
    source.scrape(1012.0)
    assert source.lines(up, ALL)[0].points[-1] == (1012.0, 0.0)
    assert source.lines(state, ALL)[0].points[-1][0] == 1010.0, "a process that does not answer has no state"
    second = Exporter(paths, "actor-0", "actor")
    source.scrape(1014.0)
    assert source.lines(up, ALL)[0].points[-1] == (1014.0, 1.0)
    second.close()
    (paths.processes / "actor-0.json").unlink()
    source.scrape(1016.0)
    assert source.lines(up, ALL)[0].points[-1][0] == 1014.0, "a process that left is not down"
    assert source.lines(up, Span(1013.0, 1015.0))[0].points == ((1014.0, 1.0),)
    assert source.lines(Target("unheard_of"), ALL) == []
    assert source.lines(alerts, ALL) == [], "zero would be a claim"


def test_scraping_goes_on_until_it_is_closed(tmp_path: Path, exporter: Exporter) -> None:
    up = Target("up")
    source = ScrapeSource(RunPaths(tmp_path), [up], every_s=0.1).start()
    deadline = 200
    while len(source.lines(up, ALL)[:1] and source.lines(up, ALL)[0].points) < 2 and deadline:
        source._end.wait(0.05)
        deadline -= 1
    source.close()
    assert len(source.lines(up, ALL)[0].points) >= 2
    assert not source._thread.is_alive()


def test_what_grows_old_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "MAX_POINTS", 100)
    series = Series()
    for i in range(1000):
        series.add(float(i), float(i))
    times = [t for t, _ in series.points]
    assert len(times) <= 101
    assert times == sorted(times)
    assert times[-1] == 999.0
    assert times[0] < 10
    assert thinned([(float(i), 0.0) for i in range(1000)], 240)[-1] == (999.0, 0.0)
    assert len(thinned([(float(i), 0.0) for i in range(1000)], 240)) <= 240


def test_rows_of_the_run_come_before_gauges(tmp_path: Path) -> None:
    steps = StepRows(write_history(tmp_path))

    class Loud(NoSource):
        def lines(self, target: Target, span: Span) -> list[Line]:
            return [Line("scraped", ((1.0, 1.0),))]

    reward = Panel("Reward", "Words.", (Target("max(r)", row="reward"), Target("up")))
    assert panel_lines(reward, steps, Loud(), ALL) == [Line("scraped", ((1.0, 1.0),))], "nothing is read yet"
    steps.refresh()
    found = panel_lines(reward, steps, Loud(), ALL)
    assert found[0] == Line("Reward", ((132.0, 0.1), (134.0, 0.2), (136.0, 0.3), (138.0, 0.4)))
    assert found[1].name == "scraped"
    assert steps.lines("reward", "r", Span(133.0, 137.0)) == [Line("r", ((134.0, 0.2), (136.0, 0.3)))]
    assert steps.lines("eval/pass_at_1", "p", ALL) == [Line("p", ((121.0, 0.25), (141.0, 0.75)))]
    assert [line.name for line in steps.lines("time/*_s", "", ALL)] == ["pack", "publish", "train", "wait"]
    assert steps.lines("no such key", "", ALL) == []


def test_legends() -> None:
    assert legend("{{kind}} {{ outcome }}", {"kind": "grade"}) == "grade "
    assert legend("plain", {}) == "plain"


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 7.3), (-3.0, 12.0), (1e-7, 2e-7), (0.0, 4e12), (0.93, 0.94)]
)
def test_ticks_are_round_and_cover_the_axis(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= high - 1e-9 * abs(high)
    assert 3 <= len(ticks) <= 7
    step = ticks[1] - ticks[0]
    assert all(b - a == pytest.approx(step) for a, b in pairwise(ticks))


def test_figures_for_people() -> None:
    texts = [figure_text(v, u) for v, u in [(0.5, "ratio"), (0.0123, "seconds"), (90, "seconds"), (9000, "seconds")]]  # type: ignore[arg-type]
    assert texts == ["50 %", "12.3 ms", "90 s", "2.5 h"]
    assert [figure_text(v, u) for v, u in [(2048, "bytes"), (3 * 2**30, "bytes_per_second"), (12, "bytes")]] == [  # type: ignore[arg-type]
        "2 KiB",
        "3 GiB/s",
        "12 B",
    ]
    assert [figure_text(v, u) for v, u in [(1234, "per_second"), (41, "count"), (7, "version"), (2e12, "flops")]] == [  # type: ignore[arg-type]
        "1.23k/s",
        "41",
        "7",
        "2TFLOP/s",
    ]
    assert clock(0.0, Span(0, 100)).count(":") == 2


def test_a_chart_draws_every_line_within_its_frame() -> None:
    lines = [Line(f"line <{i}>", tuple((float(t), float((i + 1) * t)) for t in range(5))) for i in range(12)]
    text = chart(PANEL, lines, Span(0.0, 4.0))
    assert text.count("<polyline") == 10
    assert "and 2 more" in text
    assert "line &lt;3&gt;" in text
    assert "<3>" not in text
    places = re.findall(r'points="([^"]*)"', text)
    xs, ys = zip(*[map(float, place.split(",")) for line in places for place in line.split()], strict=True)
    assert min(xs) >= 52
    assert max(xs) <= 480
    assert min(ys) >= 8
    assert max(ys) <= 170
    assert "no data" in chart(PANEL, [], ALL)


def test_axes_count_in_the_units_that_people_do() -> None:
    panel = Panel("T", "W.", (Target("a"),), unit="bytes")
    text = chart(panel, [Line("a", ((0.0, 0.0), (1.0, 3.7 * 2**20)))], Span(0.0, 1.0))
    assert [mark for mark in ("1 MiB", "2 MiB", "3 MiB", "4 MiB") if f">{mark}<" not in text] == []
    panel = Panel("T", "W.", (Target("a"),), unit="seconds")
    text = chart(panel, [Line("a", ((0.0, 0.0), (1.0, 230.0)))], Span(0.0, 1.0))
    assert [mark for mark in ("60 s", "2 min", "3 min", "4 min") if f">{mark}<" not in text] == []


def test_many_lines_at_zero_are_counted_and_not_drawn() -> None:
    zeros = [Line(f"zero {i}", ((0.0, 0.0), (1.0, 0.0))) for i in range(6)]
    other = Line("other", ((0.0, 0.0), (1.0, 2.0)))
    text = chart(PANEL, [*zeros, other], Span(0.0, 1.0))
    assert text.count("<polyline") == 1
    assert "other <b>2</b>" in text
    assert "6 more at zero" in text
    assert chart(PANEL, zeros, Span(0.0, 1.0)).count("<polyline") == 1
    assert chart(PANEL, [*zeros[:2], other], Span(0.0, 1.0)).count("<polyline") == 3


def test_stacked_lines_stand_on_each_other() -> None:
    panel = Panel("T", "W.", (Target("a"),), kind="stacked")
    lines = [Line("a", ((0.0, 1.0), (1.0, 1.0))), Line("b", ((0.0, 2.0), (1.0, 3.0)))]
    text = chart(panel, lines, Span(0.0, 1.0))
    assert text.count("<polygon") == 2
    first, second = (
        [float(p.split(",")[1]) for p in line.split()] for line in re.findall(r'polyline.*?points="([^"]*)"', text)
    )
    assert second[1] == pytest.approx(8.0)  # 1 + 3 is the top
    assert first[1] == pytest.approx(8.0 + 162 * 3 / 4)


def test_one_point_and_no_change_can_be_drawn() -> None:
    assert "<circle" in chart(PANEL, [Line("a", ((1.0, 5.0),))], Span(0.0, 2.0))
    assert "<polyline" in chart(PANEL, [Line("a", ((1.0, 0.0), (2.0, 0.0)))], Span(0.0, 2.0))
    assert sparkline([Line("a", ((1.0, 5.0),))], ALL) == ""
    assert "<polyline" in sparkline([Line("a", ((1.0, 5.0), (2.0, 5.0)))], Span(0.0, 2.0))


def test_levels() -> None:
    panel = Panel("T", "W.", (Target("a"),), thresholds=(Threshold(1, "warning"), Threshold(10, "bad")))
    assert [level(panel, v) for v in (0, 1, 10)] == ["good", "warning", "bad"]
    assert level(PANEL, 3) == ""


def test_the_page_of_a_finished_run_shows_its_rows_without_prometheus(tmp_path: Path) -> None:
    watcher = Watcher(write_history(tmp_path / "<b>run"))
    watcher.refresh()
    learning = next(board for board in BOARDS if board.name == "learning")
    text = render(watcher, learning, "all")
    assert text.count("<svg viewBox") == 3  # reward, accuracy, length: what this history has
    assert "&lt;b&gt;run" in text
    assert "<b>run" not in text
    assert "ended" in text
    assert "actor-0 was restarted: signal SIGKILL" in text
    assert "no data:" in text
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", text), "nothing comes from elsewhere"
    for board in BOARDS:
        for chosen in RANGES:
            assert "<main>" in render_body(watcher, board, chosen)
    watcher.close()


def test_the_page_follows_the_run_from_scrapes_to_prometheus_to_its_end(tmp_path: Path) -> None:
    paths = write_history(tmp_path, finished=False)
    home = paths.root / "prometheus"
    home.mkdir()
    with locked(paths):
        watcher = Watcher(paths)
        watcher.refresh()
        assert watcher.headline().source == "this page's own scrapes"
        assert watcher.headline().running
        prometheus = PageServer("127.0.0.1", 0, lambda path, _: Page(b"ready") if path == "/-/ready" else None)
        (home / "url").write_text(f"http://127.0.0.1:{prometheus.port}")
        watcher.refresh()
        assert watcher.headline().source == "Prometheus"
        assert watcher.lines(BOARDS[0].panels[0], watcher.span(None)), "steps come from the run's rows all the same"
        prometheus.close()
    watcher.refresh()
    assert watcher.headline().source == "the run's files"
    assert not watcher.headline().running
    watcher.close()


def test_what_was_scraped_stays_after_the_end(tmp_path: Path, exporter: Exporter) -> None:
    paths = write_history(tmp_path, finished=False)
    with locked(paths):
        watcher = Watcher(paths)
        source = watcher._source
        assert isinstance(source, ScrapeSource)
        deadline = time.monotonic() + 10
        while not source.lines(Target(STATES), ALL):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    watcher.refresh()
    assert not source._thread.is_alive()
    assert watcher.headline().source == "this page's own scrapes"
    watcher.close()


def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def test_the_server_answers_this_machine_and_nothing_else(tmp_path: Path) -> None:
    watcher = Watcher(write_history(tmp_path))
    watcher.refresh()
    with serving(watcher) as url:
        status, text, headers = get(url)
        assert (status, text.count("<html")) == (200, 1)
        assert headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert get(f"{url}body/learning/15")[1].startswith("<header>")
        for wrong in (
            "nowhere",
            "learning",
            "learning/7",
            "learning/all/x",
            "body",
            "body/../learning/all",
            "%2e%2e/etc",
        ):
            assert get(url + wrong)[0] == 404, wrong
        assert get(url, Host="attacker.example")[0] == 403
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(UserError, match=f"--port={port}: the port is in use"), serving(watcher, port):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)
    watcher.close()


def test_the_script_asks_for_the_part_that_the_server_has(tmp_path: Path) -> None:
    watcher = Watcher(write_history(tmp_path))
    text = render(watcher, BOARDS[0], "15")
    assert "fetch('/body' + location.pathname" in text
    assert set(re.findall(r'href="/(\w+)/15"', text)) >= {"overview", "learning", "weights"}
    assert set(re.findall(r'href="/overview/(\w+)"', text)) == set(RANGES)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "80"], "add --html"),
        (["--html", "--port", "99999"], "from 0 to 65535"),
        (["/nowhere/at/all", "--html"], "not a run directory"),
    ],
)
def test_bad_command_lines(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", *arguments]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_run_that_has_ended_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert options.watch_terminal(write_history(tmp_path)) == EXIT_OK
    assert "not running" in capsys.readouterr().out


def test_records_of_processes_are_what_the_page_reads(tmp_path: Path) -> None:
    """The fields that find_targets reads are those that register_process writes."""
    paths = RunPaths(tmp_path)
    register_process(paths, "broker", "broker", 1)
    assert {"name", "role", "metrics_port"} <= set(json.loads((paths.processes / "broker.json").read_text()))
