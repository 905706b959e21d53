"""`zeroq watch --html`: where its figures come from, how they are drawn, and what the page lets in."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from common.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from common.lifecycle import RunPaths, record_event, register_process
from common.pages import Page, PageServer
from launcher import cli
from launcher.panels import BOARDS
from launcher.panels.model import Panel, Target
from launcher.run_directory import locked
from launcher.watch import options, scrape
from launcher.watch.page import RANGES, render, render_body
from launcher.watch.scrape import ScrapeSource, Series
from launcher.watch.server import HEADERS, serving
from launcher.watch.source import Line, NoSource, Span, StepRows, legend, panel_lines, thinned
from launcher.watch.targets import ScrapeTarget, find_targets
from launcher.watch.watcher import Watcher
from tests.unit.launcher_history import write_history

ALL = Span(0.0, 1e10)
STATES = "sum by (state) (zeroq_actor_state)"  # an expression of the panels


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


@pytest.mark.parametrize(
    ("result", "phase", "state", "warned"),
    [
        ("finished", "done", "ended", False),
        ("interrupted", "stopped", "stopped", False),
        ("failed", "stopped", '<b class="bad">failed</b>', True),
        (None, "training", '<b class="bad">killed</b>', True),
        ("finished", "training", '<b class="bad">killed</b>', True),  # the summary is of an earlier life
    ],
)
def test_the_headline_says_how_a_run_ended(
    tmp_path: Path, result: str | None, phase: str, state: str, warned: bool
) -> None:
    paths = write_history(tmp_path, finished=False)
    record_event(paths, "phase", name=phase)
    if result is None:
        paths.summary.unlink(missing_ok=True)
    else:
        paths.summary.write_text(json.dumps({"result": result}))
    watcher = Watcher(paths)
    watcher.refresh()
    header = render_body(watcher, BOARDS[0], "all").partition("<nav>")[0]
    watcher.close()
    assert f'<span class="state">{state} ·' in header
    assert (f"its logs: {paths.logs}" in header) == warned
    assert "<b>stopped</b>" not in header, "the phase is what it was at"


def test_a_figure_of_the_moment_grows_old_where_one_of_a_step_does_not(tmp_path: Path) -> None:
    class Dead(NoSource):
        def lines(self, target: Target, span: Span) -> list[Line]:
            return [Line("", ((span.end - 120.0, 0.0), (span.end - 90.0, 0.03)))]

    paths = write_history(tmp_path, finished=False)
    with locked(paths):
        watcher = Watcher(paths)
        watcher.close()
        watcher._source = Dead()
        text = render_body(watcher, BOARDS[0], "5")
    starved = text.partition("<h3>Learner starved</h3>")[2].partition("</section>")[0]
    assert 'class="figure old">3 %' in starved
    assert "no data since" in starved
    assert "good" not in starved
    watcher.refresh()
    step = render_body(watcher, BOARDS[0], "all").partition("<h3>Step</h3>")[2].partition("</section>")[0]
    assert 'class="figure ">' in step
    assert "no data since" not in step
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
        for shown in ("/", "/overview/all", "/learning/15"):  # the script asks for '/body' + location.pathname
            assert get(url + "body" + shown)[1].startswith("<header>"), shown
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


def test_nobody_reads_the_terminals_lines_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zeroq watch | head` ends without a word."""

    def gone(_: object) -> None:
        raise BrokenPipeError

    closed: list[int] = []
    paths = write_history(tmp_path, finished=False)
    monkeypatch.setattr("common.config.load_config", lambda _: None)
    monkeypatch.setattr("launcher.monitor.RunMonitor", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("launcher.display.make_display", gone)
    monkeypatch.setattr("os.dup2", lambda _, number: closed.append(number))
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1)
    with locked(paths):
        assert options.watch_terminal(paths) == EXIT_OK
    assert closed == [1]


def test_records_of_processes_are_what_the_page_reads(tmp_path: Path) -> None:
    """The fields that find_targets reads are those that register_process writes."""
    paths = RunPaths(tmp_path)
    register_process(paths, "broker", "broker", 1)
    assert {"name", "role", "metrics_port"} <= set(json.loads((paths.processes / "broker.json").read_text()))
