"""The worker pool: limits, crashes, isolation, and that nothing outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from evaluator.fair_queue import FairQueue
from evaluator.pool import Call, CallFailed, Inline, LimitExceeded, Result, WorkerPool
from evaluator.zygote import Zygote

HERE = Path(__file__).parent


def call(name: str, limit_s: float = 10.0, clock: str = "cpu", **arguments: object) -> Call:
    return Call(f"evaluator_targets:{name}", arguments, limit_s, "cpu" if clock == "cpu" else "wall")


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie (whose parent may be slow to collect it)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, warm=["evaluator_targets:pid"]) as workers:
        yield workers


def test_calls_return_json_in_any_order_of_completion(pool: WorkerPool) -> None:
    futures = [pool.submit(call("echo", value={"n": n, "text": "ü"})) for n in range(50)]
    assert [future.result().value["n"] for future in futures] == list(range(50))


def test_slow_call_is_killed_within_its_limit_from_any_thread(pool: WorkerPool) -> None:
    outcome: list[object] = []

    def run() -> None:
        begin = time.perf_counter()
        try:
            pool.submit(call("spin", 0.5, seconds=60)).result(timeout=30)
        except LimitExceeded as error:
            outcome.extend([error, time.perf_counter() - begin])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(40)
    assert len(outcome) == 2
    assert isinstance(outcome[1], float)
    assert outcome[1] < 15
    assert pool.submit(call("echo", value=1)).result().value == 1


def test_a_slow_sympy_comparison_is_killed(pool: WorkerPool) -> None:
    slow = {"answer": "\\int_0^1 \\frac{\\ln(1+x^7)}{1+\\sqrt{x}} dx", "spec": {"answer": "5"}}
    with pytest.raises(LimitExceeded, match="more than 1 s"):
        pool.submit(Call("evaluator.graders.math_answer:grade", slow, 1.0)).result(timeout=60)


def test_time_without_cpu_is_no_time_out_for_a_comparison_but_is_for_a_function(pool: WorkerPool) -> None:
    assert pool.submit(call("sleep", 0.3, seconds=1.0)).result().value == "done"
    with pytest.raises(LimitExceeded):
        pool.submit(call("sleep", 0.3, "wall", seconds=20.0)).result(timeout=20)


def test_a_call_that_is_stuck_without_using_its_cpu_time_is_a_failure(pool: WorkerPool) -> None:
    with pytest.raises(CallFailed, match=r"died twice.*no result after"):
        pool.submit(call("sleep", 0.05, seconds=60)).result(timeout=30)


def test_worker_that_dies_once_is_replaced_and_the_call_tried_again(pool: WorkerPool, tmp_path: Path) -> None:
    assert pool.submit(call("die_once", marker=str(tmp_path / "died"))).result().value == "survived"


def test_worker_that_dies_twice_on_a_call_is_a_failure_and_others_go_on(pool: WorkerPool) -> None:
    deadly = pool.submit(call("die"))
    others = [pool.submit(call("echo", value=n)) for n in range(10)]
    with pytest.raises(CallFailed, match="died twice"):
        deadly.result(timeout=30)
    assert [future.result(timeout=30).value for future in others] == list(range(10))


def test_idle_worker_killed_from_outside_is_replaced(pool: WorkerPool) -> None:
    victims = list(pool.pids)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    pids = {pool.submit(call("pid")).result(timeout=30).value for _ in range(8)}
    assert not pids & set(victims)


def test_exception_names_the_target_and_place(pool: WorkerPool) -> None:
    with pytest.raises(
        CallFailed, match=r"broken: ZeroDivisionError: a grader with a bug \(evaluator_targets.py:\d+\)"
    ):
        pool.submit(call("broken")).result()


def test_memory_beyond_the_limit_is_the_calls_own_doing(pool: WorkerPool) -> None:
    with pytest.raises(LimitExceeded, match="MiB"):
        pool.submit(call("hog")).result(timeout=60)
    assert pool.submit(call("echo", value=1)).result().value == 1


def test_workers_do_not_import_torch_or_stop_on_sigterm(pool: WorkerPool) -> None:
    for future in [pool.submit(call("spin", seconds=0.2)) for _ in range(2)]:
        future.result()  # both are up
    before = set(pool.pids)
    for member in before:
        os.kill(member, signal.SIGTERM)
    assert {pool.submit(call("pid")).result().value for _ in range(8)} <= before
    # Importing torch maps libtorch*; its libgomp alone may be there: vLLM's tests leave an LD_PRELOAD of it behind.
    assert not any("libtorch" in mapped.path for member in before for mapped in psutil.Process(member).memory_maps())


def test_pool_does_not_start_with_a_failing_self_test() -> None:
    with pytest.raises(CallFailed, match=r"could not start.*self test failed"):
        WorkerPool(1, warm=["evaluator_targets:fail_start"])


def test_close_ends_workers_and_calls() -> None:
    workers = WorkerPool(1)
    pids = workers.pids
    running = workers.submit(call("spin", 60, seconds=60))
    queued = workers.submit(call("echo", value=1))
    wait_until(running.running)
    workers.close()
    assert isinstance(running.exception(timeout=10), CallFailed)
    assert queued.cancelled()
    assert not any(runs(member) for member in pids)
    with pytest.raises(ValueError, match="closed"):
        workers.submit(call("echo", value=1))


def test_workers_die_with_a_killed_parent() -> None:
    program = (
        "import sys, time\n"
        "from evaluator.pool import Call, WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(2)\n"
        "    calls = [pool.submit(Call('evaluator_targets:spin', {'seconds': 600}, 600)) for _ in range(2)]\n"
        "    while not all(call.running() for call in calls): time.sleep(0.01)\n"
        "    print(*pool.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        wait_until(lambda: not any(runs(member) for member in pids))


def test_inline_runner_reports_failures_in_the_future() -> None:
    inline = Inline()
    assert inline.submit(call("echo", value=3)).result().value == 3
    with pytest.raises(CallFailed, match="ZeroDivisionError"):
        inline.submit(call("broken")).result()


def test_groups_are_served_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    assert [queue.get() for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]
    queue.put("a", "left")
    assert queue.close() == ["left"]
    assert queue.get() is None


def test_a_cancelled_call_is_never_run(pool: WorkerPool, tmp_path: Path) -> None:
    busy = [pool.submit(call("spin", 20, seconds=0.3)) for _ in range(2)]
    marker = tmp_path / "ran"
    cancelled: Future[Result] = pool.submit(call("die_once", marker=str(marker)))
    assert cancelled.cancel()
    for future in busy:
        future.result()
    pool.submit(call("echo", value=1)).result()
    assert not marker.exists()


def test_a_killed_zygote_is_replaced(pool: WorkerPool) -> None:
    parent = psutil.Process(pool.submit(call("pid")).result().value).parent()
    assert parent is not None
    assert parent.pid != os.getpid()
    parent.kill()
    wait_until(lambda: not runs(parent.pid))  # its workers answer until the kernel has ended it
    assert [pool.submit(call("echo", value=n)).result(timeout=30).value for n in range(8)] == list(range(8))
    new = psutil.Process(pool.submit(call("pid")).result(timeout=30).value).parent()
    assert new is not None
    assert new.pid not in (parent.pid, os.getpid())


def test_the_zygote_signals_no_process_that_it_did_not_fork() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        zygote = Zygote([])
        pid, connection = zygote.fork([], None)
        assert zygote.reap(stranger.pid) is None
        assert zygote.reap(pid) == -signal.SIGKILL
        assert zygote.reap(pid) is None
        assert stranger.poll() is None
        connection.close()
        zygote.close()


def test_a_stopped_worker_blocks_nobody_for_ever(pool: WorkerPool) -> None:
    stopped = psutil.Process(pool.submit(call("pid")).result().value)
    stopped.suspend()
    try:
        futures = [pool.submit(call("sleep", 0.2, seconds=0.0)) for _ in range(4)]
        wait_until(lambda: sum(future.done() for future in futures) >= 3)
    finally:
        stopped.resume()
