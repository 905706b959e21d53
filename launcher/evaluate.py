"""Owns `zeroq eval`: broker, actors and evaluators on this machine, this process in the learner's place, no training.

problems ── AddTask (k samples; greedy) ──> broker ── actor ── evaluator ──> Take ── figures ──> table, JSON
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from common.client import BrokerClient
from common.config import RunConfig, dump_config
from common.errors import EXIT_INTERRUPTED, EXIT_OK, RunFailure, UserError
from common.lifecycle import RunPaths, StopFlag, write_atomic
from common.messages import AddTask, GetStatus, Group, Refused, Release, Sampling, StatusReport, Take
from common.wire import Envelope, Payload
from evaluator.extract import final_answer, read
from launcher.checks import check_ports, check_reward_functions
from launcher.display import clock, number
from launcher.machine import inspect_machine, place
from launcher.pool import Pool
from launcher.processes import actor_spec, broker_spec, evaluator_spec
from recipes.datasets import load_examples
from recipes.evaluate import ProblemResult, Sample, evaluation_figures
from recipes.model_files import HubUnreachable, PromptTokenizer, locate_model, read_model_facts
from recipes.prepare import Record, context_limit, needs_answer, read_prepared, to_records

MAX_TOKENS = 32_768  # of R1's evaluations
_MAX_OUTSTANDING = 512
_NUM_TAKES = 4
_TAKE_WAIT_S = 1.0
_POLL_S = 0.02
_PROGRESS_EVERY_S = 10.0


@dataclass(frozen=True)
class EvalRequest:
    """What to evaluate. `max_tokens` None: what the context leaves, at most 32,768."""

    samples: int
    greedy: bool
    max_tokens: int | None
    limit: int | None
    json_path: Path | None


def run_evaluation(config: RunConfig, request: EvalRequest) -> int:
    """Evaluate `config.model` on `config.data.train`; returns the exit code."""
    placement = replace(place(config, inspect_machine()), actor_cores=(None,))
    check_ports(config)
    check_reward_functions(config)
    if request.json_path is not None and not request.json_path.resolve().parent.is_dir():
        raise UserError(f"--json {request.json_path}: its directory does not exist")
    try:
        model = locate_model(config.model)
        records, max_tokens = load_problems(config, request, model)
    except HubUnreachable as error:
        raise UserError(f"{error}; give a local path") from None
    paths = RunPaths(Path(tempfile.mkdtemp(prefix="zeroq-eval-")))
    stop = StopFlag().install()
    try:
        dump_config(config, paths.config)
        started = time.monotonic()
        with Pool(paths, lambda event, **fields: print(f"{event}: {fields}", flush=True)) as pool:
            pool.start(
                [
                    broker_spec(paths),
                    *(evaluator_spec(config, paths, i) for i in range(config.evaluator.replicas)),
                    *(actor_spec(config, paths, placement, i) for i in range(config.actor.replicas)),
                ]
            )
            session = _Session(pool, paths, stop, read_model_facts(model).vocab_size)
            results = session.evaluate(records, make_samplings(config, request, max_tokens))
        if results is None:
            return EXIT_INTERRUPTED
        _show(config, request, max_tokens, results, time.monotonic() - started)
        return EXIT_OK
    finally:
        shutil.rmtree(paths.root, ignore_errors=True)


def load_problems(config: RunConfig, request: EvalRequest, model: Path) -> tuple[list[Record], int]:
    """Prepared records (a run's own data/eval.jsonl is taken as it is) and the longest completion in tokens."""
    context = context_limit(config, read_model_facts(model).context)
    tokenizer = PromptTokenizer(model)
    records = read_prepared(config.data.train) if isinstance(config.data.train, str) else None
    if records is None:
        examples = load_examples(
            config.data.train,
            fields=config.data.fields,
            split=config.data.split,
            training=False,
            need_answer=needs_answer(config),
            seed=config.seed,
        )
        records = to_records(
            examples[: request.limit],
            tokenizer,
            config.data.template,
            context,
            request.max_tokens or 1,
            "--max-tokens",
        )
    records = records[: request.limit]
    longest = max(len(record["prompt_ids"]) for record in records)
    room = MAX_TOKENS if context is None else min(MAX_TOKENS, context - longest)
    max_tokens = request.max_tokens or room
    if context is not None and longest + max_tokens > context:
        raise UserError(
            f"--max-tokens {max_tokens} and the longest prompt ({longest} tokens) exceed the context of {context}"
        )
    return records, max_tokens


def make_samplings(config: RunConfig, request: EvalRequest, max_tokens: int) -> dict[str, tuple[int, Sampling]]:
    """What is sampled of each problem: {kind: (number of samples, sampling)}."""
    ev = config.eval
    samplings = {
        "sampled": (
            request.samples,
            Sampling(max_tokens=max_tokens, temperature=ev.temperature, top_p=ev.top_p, seed=config.seed),
        )
    }
    if request.greedy:
        samplings["greedy"] = (1, Sampling(max_tokens=max_tokens, temperature=0.0))
    return samplings


class _Session:
    """Talks to the broker as a learner that only evaluates, and looks after the pool meanwhile."""

    def __init__(self, pool: Pool, paths: RunPaths, stop: StopFlag, vocab_size: int) -> None:
        self._pool, self._paths, self._stop, self._vocab_size = pool, paths, stop, vocab_size
        self._told_at = time.monotonic()

    def evaluate(self, records: list[Record], samplings: dict[str, tuple[int, Sampling]]) -> list[ProblemResult] | None:
        """All problems' results, in order; None after a stop signal. RunFailure when some cannot be evaluated."""
        endpoint = self._wait_for_broker()
        if endpoint is None:
            return None
        with BrokerClient(
            endpoint, "learner", "eval", vocab_size=self._vocab_size, version=0, weights_endpoint="static"
        ) as client:
            client.hello()
            graded = self._collect(client, records, samplings)
        if graded is None:
            return None
        return [
            ProblemResult(record["id"], graded[index, "sampled"], next(iter(graded.get((index, "greedy"), [])), None))
            for index, record in enumerate(records)
        ]

    def _collect(
        self, client: BrokerClient, records: list[Record], samplings: dict[str, tuple[int, Sampling]]
    ) -> dict[tuple[int, str], list[Sample]] | None:
        """Keep the broker fed and take what is graded, until every (problem, kind) has its samples."""
        waiting = deque((index, kind) for index in range(len(records)) for kind in samplings)
        total, outstanding = len(waiting), 0
        takes: list[Future[Envelope]] = []
        graded: dict[tuple[int, str], list[Sample]] = {}
        while len(graded) < total:
            while waiting and outstanding < _MAX_OUTSTANDING:
                index, kind = waiting.popleft()
                _add_task(client, index, kind, records[index], *samplings[kind])
                outstanding += 1
            takes += [client.call(Take(purpose="eval", wait_s=_TAKE_WAIT_S)) for _ in range(_NUM_TAKES - len(takes))]
            if not self._look_after(f"{len(graded)} of {total} groups graded", client):
                return None
            for take in [take for take in takes if take.done()]:
                takes.remove(take)
                envelope = take.result()
                if isinstance(envelope.header, Group):
                    index, kind = _parse_task_id(envelope.header.task_id)
                    graded[index, kind] = read_samples(envelope, str(records[index]["prompt"]))
                    client.request(Release(task_ids=[envelope.header.task_id], outcome="trained"))
                    outstanding -= 1
        return graded

    def _wait_for_broker(self) -> str | None:
        while not self._paths.endpoints.exists():
            if not self._look_after("starting", None):
                return None
        return str(json.loads(self._paths.endpoints.read_text())["learner"])

    def _look_after(self, doing: str, client: BrokerClient | None) -> bool:
        """Poll the pool, say something now and then; False once a stop was asked for."""
        self._pool.poll()
        if time.monotonic() - self._told_at >= _PROGRESS_EVERY_S:
            self._told_at = time.monotonic()
            print(f"evaluating: {doing}", flush=True)
            if client is not None:
                _refuse_dead_letters(client)
        return not self._stop.wait(_POLL_S)


def _add_task(
    client: BrokerClient, index: int, kind: str, record: Record, num_samples: int, sampling: Sampling
) -> None:
    task = AddTask(task_id=f"{kind}/{index}", purpose="eval", group_size=num_samples, sampling=sampling)
    payload: Payload = {
        "prompt_ids": np.asarray(record["prompt_ids"], dtype=np.int32),
        "prompt": str(record["prompt"]).encode(),
        "spec": json.dumps(record["spec"], ensure_ascii=False).encode(),
    }
    reply = client.request(task, payload).header
    if isinstance(reply, Refused):
        raise RunFailure(f"the broker refused problem {record['id']}: {reply.detail}")


def _parse_task_id(task_id: str) -> tuple[int, str]:
    kind, _, index = task_id.partition("/")
    return int(index), kind


def _refuse_dead_letters(client: BrokerClient) -> None:
    header = client.request(GetStatus()).header
    if isinstance(header, StatusReport) and header.status["dead_letters"]:
        letters = header.status["dead_letters"]
        raise RunFailure(f"{len(letters)} problem(s) could not be evaluated; the last: {letters[-1]}")


def read_samples(envelope: Envelope, prompt: str) -> list[Sample]:
    """The graded completions of a group."""
    header = envelope.header
    assert isinstance(header, Group)
    texts, start, samples = envelope.blob("texts"), 0, []
    for rollout, verdict in zip(header.rollouts, header.verdicts, strict=True):
        text = texts[start : start + rollout.text_bytes].decode("utf-8", errors="replace")
        start += rollout.text_bytes
        answer = final_answer(read(prompt, text))
        samples.append(Sample(verdict.outcome == "pass", answer, rollout.num_tokens, rollout.finish_reason == "length"))
    return samples


def _show(
    config: RunConfig, request: EvalRequest, max_tokens: int, results: list[ProblemResult], wall_s: float
) -> None:
    found = evaluation_figures(results)
    settings: dict[str, Any] = {
        "model": config.model,
        "data": config.data.train if isinstance(config.data.train, str) else config.data.train.model_dump(),
        "template": config.data.template,
        "temperature": config.eval.temperature,
        "top_p": config.eval.top_p,
        "max_tokens": max_tokens,
        "seed": config.seed,
        "wall_s": round(wall_s, 3),
    }
    table = Table(title=f"{config.model}: {found['num_problems']} problems, {found['samples']} samples each")
    table.add_column("figure")
    table.add_column("value", justify="right")
    error = number(found["pass_at_1_standard_error"], 4)
    table.add_row("pass@1 (± standard error)", f"{number(found['pass_at_1'], 4)} ± {error}")
    table.add_row(f"cons@{found['samples']}", number(found["cons_at_k"], 4))
    table.add_row("greedy", number(found["greedy"], 4))
    table.add_row("mean length, tokens", number(found["mean_length"], 1))
    table.add_row("clipped ratio", number(found["clipped_ratio"], 4))
    table.add_row("wall time", clock(wall_s))
    Console().print(table)
    if request.json_path is not None:
        write_atomic(request.json_path, json.dumps(settings | found, indent=2) + "\n")
