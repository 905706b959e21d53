"""Groups per second: plain PUSH/PULL of a 197 KB group against its whole way through the broker, in one run.

The limit is one process pushing the frames of a group to another over TCP, nothing checked, nothing acknowledged. The
broker's figure includes everything the delivery contract asks for: a task is added, leased, its group submitted,
checked and acknowledged, leased for grading, graded, taken by the learner and released: in plaintext, and with CURVE,
which is the default. The three are measured in turn, several times; the ratios of the medians are what counts on a
shared machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from broker.server import Server
from common import messages as m
from common.arguments import LineParser
from common.client import configure_socket, send_frames
from common.config import RunConfig
from common.curve import Dialler
from common.keys import Keys, make_keys
from common.lifecycle import StopFlag
from common.wire import Payload, decode, encode

GROUP_SIZE = 8
TOKENS_PER_ROLLOUT = 1875
TEXT_BYTES = 2200


def make_group() -> tuple[list[m.RolloutMeta], Payload]:
    """Eight rollouts of 1,875 tokens: three arrays of 60 KB and 18 KB of text."""
    num = GROUP_SIZE * TOKENS_PER_ROLLOUT
    rollout = m.RolloutMeta(num_tokens=TOKENS_PER_ROLLOUT, text_bytes=TEXT_BYTES, finish_reason="stop")
    payload: Payload = {
        "token_ids": np.arange(num, dtype=np.int32) % 32_000,
        "logprobs": np.full(num, -0.5, dtype=np.float32),
        "versions": np.zeros(num, dtype=np.int32),
        "texts": b"x" * (GROUP_SIZE * TEXT_BYTES),
    }
    return [rollout] * GROUP_SIZE, payload


def push(endpoint: str, num: int) -> None:
    """Send `num` groups as bare frames."""
    frames: list[bytes | memoryview] = [v if isinstance(v, bytes) else v.tobytes() for v in make_group()[1].values()]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.connect(endpoint)
    for _ in range(num):
        send_frames(sender, frames)
    sender.close()
    context.term()


def measure_direct(num: int) -> float:
    """Groups per second from one process to another without a broker."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    receiver = context.socket(zmq.PULL)
    port = receiver.bind_to_random_port("tcp://127.0.0.1")
    process = multiprocessing.get_context("spawn").Process(target=push, args=(f"tcp://127.0.0.1:{port}", num + 1))
    process.start()
    receiver.recv_multipart()  # the sender is up
    started = time.perf_counter()
    for _ in range(num):
        receiver.recv_multipart()
    elapsed = time.perf_counter() - started
    process.join()
    receiver.close()
    context.term()
    return num / elapsed


def serve(run_dir: str, keys: Path | None, ready: Event, stop: Event) -> None:
    """The broker in a process of its own; `keys`: the folder, or plaintext."""
    config = RunConfig.model_validate(
        {"model": "tiny", "data": {"train": "x"}, "learner": {"groups_per_step": 64, "max_staleness": 3}}
    )
    with Server(config, None if keys is None else Keys.load(keys, "broker")) as server:
        (Path(run_dir) / "endpoints").write_text("\n".join(f"{r} {e}" for r, e in server.endpoints.items()))
        flag = StopFlag()

        def forward() -> None:
            stop.wait()
            flag.set()

        threading.Thread(target=forward, daemon=True).start()
        ready.set()
        server.serve(flag)


class Driver:
    """Learner, actor and evaluator in one thread, one DEALER socket each, with `depth` requests of each kind under way.

    It answers every reply with the next request of that peer, so that the broker never waits for more than the driver's
    own encoding and decoding, which the figure includes.
    """

    def __init__(self, endpoints: dict[str, str], depth: int, keys: Path | None) -> None:
        self.depth = depth
        self.rollouts, self.payload = make_group()
        self.verdicts = [m.Verdict(outcome="pass", reward=1.0, rewards={"accuracy": 1.0})] * GROUP_SIZE
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        self.poller = zmq.Poller()
        self.ids = itertools.count(1)
        self.num_added = self.num_trained = self.goal = 0
        roles: tuple[m.Role, ...] = ("learner", "actor", "evaluator")
        self.diallers: list[Dialler] = []
        for role in roles:
            self.sockets[role] = self.context.socket(zmq.DEALER)
            configure_socket(self.sockets[role])
            own = None if keys is None else Keys.load(keys, role)
            self.diallers.append(Dialler(endpoints[role], "broker", own, client=role))
            self.diallers[-1].attach(self.sockets[role])
            self.sockets[role].connect(endpoints[role])
            self.poller.register(self.sockets[role], zmq.POLLIN)
            hello = m.Hello(role=role, name=role, incarnation=role)
            if role == "learner":
                hello = hello.model_copy(update={"vocab_size": 32_000, "version": 0})
            self.send(role, hello)
            assert isinstance(decode(self.sockets[role].recv_multipart()).header, m.Welcome)
        for _ in range(depth):
            self.send("actor", m.LeaseWork(kind="generate", version=0, wait_s=300.0))
            self.send("evaluator", m.LeaseWork(kind="grade", wait_s=300.0))
            self.send("learner", m.Take(purpose="eval", wait_s=300.0))

    def close(self) -> None:
        """Close the sockets."""
        for dialler in self.diallers:
            dialler.detach()
        self.context.destroy(0)

    def send(self, role: str, header: m.Header, payload: Payload | None = None) -> None:
        """Send a request as `role`."""
        frames = encode(header.model_copy(update={"request_id": next(self.ids)}), payload)
        send_frames(self.sockets[role], frames)

    def run(self, num: int) -> float:
        """Bring `num` more groups through the broker; groups per second."""
        self.goal += num
        started = time.perf_counter()
        for _ in range(min(2 * self.depth, num)):
            self.add()
        while self.num_trained < self.goal:
            for socket, _ in self.poller.poll():
                with contextlib.suppress(zmq.Again):
                    while True:
                        self.react(decode(socket.recv_multipart(zmq.NOBLOCK)).header)
        return num / (time.perf_counter() - started)

    def add(self) -> None:
        """Add one more task, if there are to be more."""
        if self.num_added == self.goal:
            return
        self.num_added += 1
        sampling = m.Sampling(max_tokens=TOKENS_PER_ROLLOUT)
        header = m.AddTask(task_id=f"t{self.num_added}", purpose="eval", group_size=GROUP_SIZE, sampling=sampling)
        ids = np.arange(64, dtype=np.int32)
        self.send("learner", header, {"prompt_ids": ids, "prompt": b"p" * 200, "spec": b'{"answer": "2"}'})

    def react(self, reply: m.Header) -> None:
        """The next request of whoever got `reply`."""
        if isinstance(reply, m.Lease):
            fields: dict[str, Any] = {"lease_id": reply.lease_id, "token": reply.token, "task_id": reply.task_id}
            if reply.kind == "generate":
                self.send("actor", m.SubmitGroup(rollouts=self.rollouts, **fields), self.payload)
                self.send("actor", m.LeaseWork(kind="generate", version=0, wait_s=300.0))
            else:
                self.send("evaluator", m.SubmitVerdicts(verdicts=self.verdicts, **fields))
                self.send("evaluator", m.LeaseWork(kind="grade", wait_s=300.0))
        elif isinstance(reply, m.Group):
            self.num_trained += 1
            self.send("learner", m.Release(task_ids=[reply.task_id], outcome="trained"))
            self.send("learner", m.Take(purpose="eval", wait_s=300.0))
            self.add()
        else:
            assert isinstance(reply, m.Ack), reply


@contextlib.contextmanager
def broker(depth: int, keys: Path | None) -> Iterator[Driver]:
    """A broker process, and a driver that is connected to it."""
    spawn = multiprocessing.get_context("spawn")
    ready, stop = spawn.Event(), spawn.Event()
    with tempfile.TemporaryDirectory() as run_dir:
        process = spawn.Process(target=serve, args=(run_dir, keys, ready, stop))
        process.start()
        try:
            assert ready.wait(30), "the broker did not start"
            lines = (Path(run_dir) / "endpoints").read_text().splitlines()
            driver = Driver(dict(line.split(" ", 1) for line in lines), depth, keys)
            yield driver
            driver.close()
        finally:
            stop.set()
            process.join(10)
            process.kill()


def main() -> None:
    """Measure all ways in turn and print the ratios of the medians."""
    parser = LineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=1000, help="groups in each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, interleaved")
    parser.add_argument("--depth", type=int, default=16, help="requests that each peer keeps under way")
    arguments = parser.parse_args()
    size = sum(len(v) if isinstance(v, bytes) else v.nbytes for v in make_group()[1].values())
    rates: dict[str, list[float]] = {"direct PUSH/PULL": [], "through the broker": [], "the same with CURVE": []}
    direct, plain, curve = rates.values()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        keys = Path(folder) / "keys"
        make_keys(keys)
        drivers = [stack.enter_context(broker(arguments.depth, which)) for which in (None, keys)]
        for driver in drivers:
            driver.run(min(100, arguments.groups))  # warm up
        for _ in range(arguments.rounds):
            direct.append(measure_direct(arguments.groups))
            plain.append(drivers[0].run(arguments.groups))
            curve.append(drivers[1].run(arguments.groups))
    print(f"payload                {size / 1000:.0f} KB a group, {arguments.groups} groups, {arguments.rounds} rounds")
    for name, values in rates.items():
        print(f"{name:22} {statistics.median(values):8.0f} groups/s   {[round(x) for x in values]}")
    print(f"broker / direct        {statistics.median(plain) / statistics.median(direct):8.2f}")
    print(f"CURVE / plaintext      {statistics.median(curve) / statistics.median(plain):8.2f}")


if __name__ == "__main__":
    main()
