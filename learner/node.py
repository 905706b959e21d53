"""One machine's share of a learner that is spread over several: `python -m learner.node` (docs/processes.md).

    python -m learner.node --run-dir DIR --config FILE --nodes N --rank ORDINAL --rendezvous HOST:PORT [key=value ...]

Consumes orders of the gang (learner/gang.py), whose seat is the node of rank 0; waits for them and for its ranks; is
unblocked by an order, by the end of the ranks, or by a stop; produces a process group that is whole or not there.
Only node 0's run directory holds data and checkpoints. Probes and Prometheus ask this process, which passes on what the
machine's first rank says while there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.arguments import LineParser, add_process_options
from common.check import check_address, check_process
from common.cli import exit_code_of, read_config
from common.config import RunConfig
from common.errors import EXIT_OK, EXIT_USER_ERROR, RunFailure, UserError
from common.health import Health
from common.keys import Keys, warn_of_plaintext
from common.lifecycle import RunPaths, StopFlag, configure_logging, die_with_parent, register_process
from common.metrics import export_health, metrics_page, probe_page
from common.pages import Page, PageServer
from learner.gang import SILENT_S, Gang, NodeState, Order, Report
from learner.gang_link import GangClient, GangServer
from learner.node_ranks import NodeRanks, free_port

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 0.25
_STUCK_S = 60.0
_LONELY_S = 6 * 3600.0
"""A node that hears nothing of the gang's seat for so long gives up, and is started again by whoever started it. Longer
than a model from the hub may take, for which node 0 waits before it starts: a LeaderWorkerSet starts all of them."""
_MAX_FAILURES = 5
_STEADY_S = 600.0
_FAREWELL_S = 10.0
_WILDCARDS = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1"}


@dataclass(frozen=True)
class Place:
    """Where in the gang this node is: number `node` of `num_nodes`, which meet at `host`:`port`."""

    node: int
    num_nodes: int
    host: str
    port: int


class Node:
    """Obeys the gang until training is finished, or a stop is asked for."""

    def __init__(
        self, place: Place, ranks: NodeRanks, client: GangClient, stop: StopFlag, *, exit_when_done: bool
    ) -> None:
        self._place, self._ranks, self._client, self._stop = place, ranks, client, stop
        self._exit_when_done = exit_when_done
        self._incarnation = uuid.uuid4().hex
        self._state: NodeState = "idle"
        self._now: tuple[str, int] = ("", 0)  # gang and generation that the state speaks of
        self._order: Order | None = None
        self._num_failures = 0
        self.health = Health(stopping=lambda: bool(stop))
        self.health.ready(unless=lambda: None if self._state == "finished" else self._doing())

    def run(self) -> None:
        """Until training is finished or stopped. RunFailure when the ranks fail again and again, or the gang's seat is
        silent for hours; UserError when a rank found its input wrong."""
        try:
            while not self._stop:
                self.health.beat("node", self._doing(), _STUCK_S)
                self._look_at_ranks()
                self._obey(self._ask())
                if self._state == "finished" and self._exit_when_done:
                    self._bid_farewell()
                    return
                time.sleep(_REPORT_EVERY_S)
            self._leave()
        finally:
            self._ranks.kill()

    # ---------------------------------------------------------------- one round

    def _look_at_ranks(self) -> None:
        code = self._ranks.poll()
        if code is None:
            return
        if code == EXIT_USER_ERROR:
            raise UserError(f"the ranks of node {self._place.node} find their input wrong; their own line is above")
        if code != EXIT_OK:
            steady = self._ranks.seconds > _STEADY_S
            self._num_failures = 1 if steady else self._num_failures + 1
            log.error("the ranks here failed (exit code %d, %d in a row)", code, self._num_failures)
            if self._num_failures >= _MAX_FAILURES:
                raise RunFailure(f"the ranks of node {self._place.node} failed {self._num_failures} times in a row")
            self._state = "failed"
        elif self._place.node == 0 and self._ranks.trained_to_the_end:
            self._state = "finished"
        else:
            self._state = "ended"

    def _ask(self) -> Order | None:
        gang, generation = self._now
        report = Report(
            node=self._place.node,
            incarnation=self._incarnation,
            gang=gang,
            generation=generation,
            state=self._state,
        )
        return self._client.report(report, _REPORT_EVERY_S)

    def _obey(self, order: Order | None) -> None:
        if order is None:
            if self._client.silent_s > _LONELY_S:
                raise RunFailure(f"node 0 has not answered at {self._place.host}:{self._place.port} for six hours")
            if self._client.silent_s > SILENT_S and self._ranks.running:
                self._end_ranks(f"node 0 has been silent for {self._client.silent_s:.0f} s")
                self._state = "failed"  # it may have heard us all the while, and believe that our ranks still run
            return
        if self._order is None or order.reason != self._order.reason:
            log.info("gang: %s", order.reason)
        self._order = order
        wanted = (order.gang, order.generation)
        if order.finished:
            self._end_ranks(order.reason)
            self._state = "finished"
        elif order.go and wanted != self._now:
            self._end_ranks("the next generation begins")
            self._now, self._state = wanted, "running"
            self._ranks.start(order.port)
        elif not order.go:
            self._end_ranks(order.reason)
            self._state = "idle"

    def _end_ranks(self, reason: str) -> None:
        if self._ranks.running:
            log.info("ending the ranks here: %s", reason)
            self._ranks.kill()
        self._state = "idle"

    # ---------------------------------------------------------------- the end

    def _leave(self) -> None:
        """Have the ranks save a checkpoint and leave (all ranks of the gang do, together); wait for that. How long that
        may take is the matter of whoever asked: a second signal ends this process, and with it the ranks, at once."""
        if not self._ranks.running:
            return
        self._ranks.ask_to_stop()
        while (code := self._ranks.poll()) is None:
            self.health.beat("node", "waiting for the ranks to save and leave", _STUCK_S)
            self._ask()  # the gang must not believe this node dead, and end the others' ranks in the middle of it
            time.sleep(_REPORT_EVERY_S)
        if code != EXIT_OK:
            raise RunFailure(f"the ranks of node {self._place.node} were asked to stop and ended with exit code {code}")

    def _bid_farewell(self) -> None:
        """The seat of the gang stays until the others have heard that training is finished."""
        deadline = time.monotonic() + _FAREWELL_S
        while self._place.node == 0 and self._place.num_nodes > 1 and time.monotonic() < deadline:
            self._ask()
            time.sleep(_REPORT_EVERY_S)

    # ---------------------------------------------------------------- probes

    def _doing(self) -> str:
        reason = self._order.reason if self._order is not None else "waiting for node 0"
        return f"{self._state}: {reason}"

    def page(self, path: str, headers: Mapping[str, str]) -> Page | None:
        """Metrics and probes of the machine's first rank, or of this process while there is none."""
        if path not in ("/metrics", "/livez", "/readyz"):
            return None
        if path == "/livez" and (stuck := self.health.why_not_alive()) is not None:
            return probe_page(stuck, "")
        if self._state == "running":
            return self._ranks.page(path, headers)
        if path == "/metrics":  # a node without ranks is no target that is down: it waits, or training is finished
            return metrics_page(headers)
        if path == "/livez" or (path == "/readyz" and self._state == "finished"):
            return probe_page(None, self._doing())
        return probe_page(self._doing(), "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the node; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    if not (options.keep_running or options.check):
        die_with_parent()
    configure_logging(f"{options.name}-node{options.rank}")
    paths = RunPaths(options.run_dir.resolve())

    def start() -> None:
        config = read_config(RunConfig, paths, options.config, options.overrides)
        place = place_of(config, options)
        if options.check:
            check_process(config, paths, "learner")
            print(f"learner.node: {options.config or paths.config} is in order")
        else:
            _run(config, paths, place, options)

    return exit_code_of(start)


def _run(config: RunConfig, paths: RunPaths, place: Place, options: argparse.Namespace) -> None:
    stop = StopFlag().install()
    keys = Keys.for_process(config, paths, "learner")
    command = ["--run-dir", str(paths.root), "--name", options.name]
    command += ["--config", str(options.config)] if options.config else []
    ranks = NodeRanks(
        config,
        paths,
        [*command, *options.overrides],
        name=options.name,
        node=place.node,
        num_nodes=place.num_nodes,
        host=place.host,
    )
    with contextlib.ExitStack() as stack:
        if place.node == 0:
            bind = _WILDCARDS.get(place.host, "*")
            gang = Gang(place.num_nodes, pick_port=free_port)
            stack.callback(GangServer(gang, bind, place.port, keys).close)
        client = GangClient(f"tcp://{place.host}:{place.port}", keys)
        stack.callback(client.close)
        node = Node(place, ranks, client, stop, exit_when_done=options.exit_when_done)
        export_health(node.health)
        pages = PageServer(config.metrics.host, config.metrics.port, node.page)
        stack.callback(pages.close)
        register_process(paths, f"{options.name}-node{place.node}", "learner", None)
        log.info("node %d of %d, gang at %s:%d", place.node, place.num_nodes, place.host, place.port)
        node.run()


def place_of(config: RunConfig, options: argparse.Namespace) -> Place:
    """Where this node is; UserError when numbers or address do not fit."""
    host, _, port = options.rendezvous.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UserError(f"--rendezvous={options.rendezvous}: expected HOST:PORT, such as learner-0.learner:7620")
    check_address(host, "--rendezvous")
    if not 0 <= options.rank < options.nodes:
        raise UserError(
            f"--rank={options.rank} --nodes={options.nodes}: ranks of nodes count from 0 to {options.nodes - 1}"
        )
    if config.learner.ranks % options.nodes:
        raise UserError(
            f"learner.ranks={config.learner.ranks} cannot be shared out evenly to --nodes={options.nodes}; "
            "make it a multiple"
        )
    if options.nodes > 1 and config.security.mode != "off" and config.security.keys is None:
        raise UserError("security.keys: nodes on several machines need the same keys; make them with zeroq keygen")
    if config.security.mode == "off":
        warn_of_plaintext({"--rendezvous": host})
    return Place(options.rank, options.nodes, host, int(port))


def _parser() -> LineParser:
    parser = LineParser(prog="python -m learner.node", description="One machine's ranks of a learner, by torchrun.")
    add_process_options(parser, "learner")
    parser.add_argument("--nodes", type=int, required=True, metavar="N", help="number of machines")
    parser.add_argument("--rank", type=int, required=True, metavar="ORDINAL", help="number of this one, from 0")
    parser.add_argument("--rendezvous", required=True, metavar="HOST:PORT", help="where node 0 is reached")
    parser.add_argument(
        "--exit-when-done", action="store_true", help="end when training is finished (default: wait to be stopped)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
