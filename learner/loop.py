"""The learner's loop: take -> pack -> step -> publish -> release.

Consumes graded groups from the broker; waits for `groups_per_step` of them; is unblocked by groups, or by a request to
stop; produces policy versions for the actors, checkpoints, metrics.jsonl and learner_summary.json.

All ranks run this code in lockstep. Only rank 0 has a `BrokerSession`; what it learns there (a batch, a stop) it gives
to the others, and everything else follows from the step number, which all ranks know.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.cli import Process
from common.errors import BrokerUnavailable, NotLetIn, RunFailure, UserError, WireError
from common.lifecycle import record_event, write_atomic
from learner import metrics
from learner.batch import BatchFigures, TakenGroup, TrainingBatch, build_batch, share
from learner.checkpoint import CheckpointStore, TrainingState, restore
from learner.evaluation import EvaluationFigures
from learner.flops import peak_flops
from learner.phases import Phases, never
from learner.ranks import Ranks
from learner.samples import SampleLog
from learner.session import BrokerSession, PublisherFactory, weight_publisher
from learner.sft import cold_start, read_examples, share_examples
from learner.step_log import StepLog, step_line
from learner.trainer import StepFigures, Trainer

log = logging.getLogger(__name__)

_SAY_EVERY_S = 10.0
_STEP_EVERY_S = 1.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def run(process: Process, *, make_publisher: PublisherFactory = weight_publisher) -> None:
    """Train until `learner.max_steps` or a request to stop; RunFailure when training or the broker fails, UserError
    when the broker does not let us in (any more)."""
    with Ranks(process.config.learner, process.health) as ranks:
        learner = Learner(process, ranks, make_publisher)
        try:
            learner.run()
        except NotLetIn as error:
            raise UserError(str(error)) from error
        except (BrokerUnavailable, WireError) as error:
            raise RunFailure(str(error)) from error
        finally:
            learner.close()


class Learner(Phases):
    """One rank of the learner."""

    def __init__(self, process: Process, ranks: Ranks, make_publisher: PublisherFactory) -> None:
        super().__init__(process.paths, ranks, process.stop)
        self.process, self.config = process, process.config
        self.make_publisher = make_publisher
        self.store = CheckpointStore(self.paths.checkpoints, keep=self.config.learner.keep_checkpoints)
        self.state = TrainingState()
        self.step = self.version = 0
        self.session: BrokerSession | None = None
        self.groups: list[TakenGroup] = []
        self.times: dict[str, float] = defaultdict(float)
        self.totals: dict[str, float] = defaultdict(float)
        self.evaluated: dict[str, EvaluationFigures | dict[str, Any]] = {}
        self.said = float("-inf")

    def run(self) -> None:
        """The whole of a training run."""
        self.load()
        if self.resumed_from is None and self.config.cold_start.steps and not self.cold_start():
            return  # stopped half-way: there is nothing worth going on from
        with self.phase("publishing"):
            self.publish(self.version)
            self.finish_publish()
        self.evaluate("before")
        with self.phase("training"):
            while self.step < self.config.learner.max_steps and not self.stopping():
                began = time.perf_counter()
                taken = self.take()
                if taken is None:
                    break
                batch, about = taken
                figures = self.train(batch, about)
                if self.publish_due():
                    self.publish(self.version + 1)
                else:
                    self.release()
                self.record(about, figures, time.perf_counter() - began)
                self.evaluate_beside_training()
                if self.step % self.config.learner.checkpoint_every_steps == 0:
                    self.save()
        if not self.stopping():
            self.evaluate("after")
        self.save()
        self.summarise()

    # ---------------------------------------------------------------- start

    def load(self) -> None:
        """Model, or checkpoint to go on from; then register with the broker."""
        with self.phase("loading"):
            self.resumed_from = source = self.store.agree(self.config.resume, self.ranks)
            self.trainer = Trainer(self.config, source or self.config.model, self.ranks)
            self.trainer.warm_up()
            if source is not None:
                self.state = restore(source, self.trainer)
                self.step, self.version = self.state.step, self.state.version
                if self.step % self.config.learner.steps_per_publish:
                    self.version += 1  # these weights are newer than those published under the saved version
                self.totals.update({k: v for k, v in self.state.counters.items() if not k.endswith("_before")})
                if self.ranks.first:
                    log.info("going on from %s: step %d, version %d", source, self.step, self.version)
            self.saved_step = -1 if source is None else self.step
            self.ranks.health.ready()
            if self.ranks.first:
                self.publisher = self.make_publisher(self.process)
                self.session = BrokerSession(
                    self.process, self.publisher, self.state, self.version, self.trainer.policy.vocab_size
                )
                peak = peak_flops(self.ranks.device, self.config.learner.dtype)
                self.log = StepLog(
                    self.paths.metrics,
                    max_staleness=self.config.learner.max_staleness,
                    num_tokens=self.totals["tokens"],
                    peak_flops=peak and peak * self.ranks.size,
                )
                metrics.begin(self.step, self.version, self.config.learner, source)
                self.samples = SampleLog(
                    self.paths.root / "samples", self.config.logging, seed=self.config.seed, step=self.step
                )

    def cold_start(self) -> bool:
        """Supervised fine-tuning on prepared traces; the tuned policy becomes the reference and checkpoint step-0.
        False when asked to stop meanwhile."""
        from transformers import AutoTokenizer

        with self.phase("cold_start"):
            examples = None
            if self.ranks.first:
                tokenizer = AutoTokenizer.from_pretrained(self.config.model)
                examples = read_examples(self.paths.root / "data" / "cold_start.jsonl", tokenizer)
            examples = share_examples(examples, self.ranks)
            figures = cold_start(
                self.trainer, examples, self.config.cold_start, report=self._report_cold_start(), stopped=self.stopping
            )
            self.totals["cold_start_loss"] = figures.loss
            self.totals["cold_start_steps"] = figures.steps
            if figures.stopped:
                return False
            self.trainer.refresh_reference()
            self.save()
            return True

    def _report_cold_start(self) -> Callable[[int, float, float], None]:
        last = said = float("-inf")
        of = self.config.cold_start.steps

        def report(step: int, loss: float, tokens_per_s: float) -> None:
            nonlocal last, said
            now = time.monotonic()
            if self.ranks.first and (now - last >= 1.0 or step == of):
                last = now
                record_event(self.paths, "cold_start_step", step=step, of=of, loss=loss, tokens_per_s=tokens_per_s)
            if self.ranks.first and (now - said >= _SAY_EVERY_S or step == of):
                said = now
                log.info("cold start: step %d/%d, loss %.3f, %.0f tokens/s", step, of, loss, tokens_per_s)

        return report

    # ---------------------------------------------------------------- steps of the loop

    def take(self) -> tuple[TrainingBatch, BatchFigures | None] | None:
        """Groups of one step as a batch, on all ranks; None when asked to stop."""
        session, about, batch = self.session, None, None
        with self.timed("wait"):
            if session is not None:
                session.top_up()
            poll = (lambda seconds: session.poll_groups(self.version, seconds)) if session else never
            if not self.ranks.wait_on_first(poll, lambda: bool(self.process.stop)):
                return None
        with self.timed("pack"):
            if session is not None:
                self.groups = session.intake.collected()
                names = [component.name for component in self.config.reward.components]
                batch, about = build_batch(self.groups, self.version, self.config.learner, components=names)
            return share(batch, self.ranks), about

    def train(self, batch: TrainingBatch, about: BatchFigures | None) -> StepFigures:
        """One optimizer step; RunFailure before it if loss or gradients are not finite."""
        where = f"tasks {', '.join(about.task_ids)}" if about else f"step {self.step + 1}"
        figures = self.trainer.step(batch, self.step, where=where)
        self.times["pack"] += figures.pack_s
        self.times["train"] += figures.train_s
        self.step += 1
        if self.session is not None:
            self.samples.add(self.step, self.version, self.groups, batch.advantages_N.tolist())
        self.totals["groups_trained"] += self.config.learner.groups_per_step
        self.totals["fed_tokens"] += figures.num_fed_tokens
        self.totals["compute_s"] += figures.pack_s + figures.train_s
        return figures

    def publish_due(self) -> bool:
        """Publishes come every `steps_per_publish` steps, and after the last for its evaluation."""
        learner = self.config.learner
        return self.step % learner.steps_per_publish == 0 or self.step == learner.max_steps

    def publish(self, version: int) -> None:
        """Begin to give the policy to the actors as `version`; all ranks take part in gathering it. The groups trained
        on are released once the actors have it."""
        with self.timed("publish"):
            from learner.weights import gather_full_tensors

            tensors = gather_full_tensors(self.trainer.policy.module, _DTYPES[self.config.actor.dtype])
            if self.session is not None:
                self.session.num_steps_left = self.config.learner.max_steps - self.step
                self.session.publish(version, tensors, self.groups)
            for _ in tensors:  # a publisher that gave up half-way leaves the other ranks in a collective
                pass
            self.version, self.groups = version, []

    def finish_publish(self) -> None:
        """Wait for the publish under way."""
        if self.session is not None:
            self.session.finish_publish()

    def release(self) -> None:
        """The groups of this step are done with; new tasks take their place."""
        if self.session is not None:
            self.session.release(self.groups)
            self.session.num_steps_left = self.config.learner.max_steps - self.step
            self.session.top_up()
        self.groups = []

    def record(self, about: BatchFigures | None, figures: StepFigures, step_s: float) -> None:
        """A line in metrics.jsonl, and one in the log: of steps that follow each other fast, about one a second."""
        times, self.times = {**self.times, "step": step_s}, defaultdict(float)
        if self.session is None or about is None:
            return
        self.totals["staleness_max"] = max(self.totals["staleness_max"], max(about.staleness, default=0))
        self.totals["tokens_masked_stale"] += about.num_stale_masked
        self.totals["tokens"] += about.num_prompt_tokens + about.num_completion_tokens
        evaluations = self.session.take_finished_evaluations()
        self.log.write(self.step, self.version, about, figures, times, evaluations)
        of, now = self.config.learner.max_steps, time.monotonic()
        if now - self.said >= _STEP_EVERY_S or self.step == of:
            self.said = now
            log.info("%s", step_line(self.step, of, about, figures, times))

    def evaluate_beside_training(self) -> None:
        """Start an evaluation that is collected while training goes on."""
        every = self.config.eval.every_steps
        if self.session is not None and every and self.step % every == 0 and self.step < self.config.learner.max_steps:
            self.session.finish_publish()
            self.session.evaluations.submit("during", step=self.step, version=self.version)

    def evaluate(self, label: str) -> None:
        """Evaluate and wait for it. A resumed run keeps the figures from before its first step."""
        if not self.config.eval.before_and_after:
            return
        kept = {k: v for k, v in self.state.counters.items() if k.endswith("_before")}
        if label == "before" and kept:
            return
        session = self.session
        self.finish_publish()
        with self.phase(f"evaluating_{label}"):
            if session is not None:
                session.evaluations.submit(label, step=self.step, version=self.version)
                session.top_up()  # actors that have no evaluation task left go on with training tasks
            poll = session.poll_evaluations if session else never
            self.ranks.wait_on_first(poll, lambda: bool(self.process.stop))
            if session is not None:
                for figures in session.finished_evaluations:
                    self.evaluated[figures.label] = figures
                session.take_finished_evaluations()

    # ---------------------------------------------------------------- end

    def save(self) -> None:
        """Checkpoint of this step, unless there is one."""
        if self.saved_step == self.step:
            return
        self.saved_step = self.step
        session = self.session
        if session is not None:
            self.samples.flush()
        self.finish_publish()  # releases this step's groups; a resumed run would train on them again
        self.state = TrainingState(
            step=self.step,
            version=self.version,
            cursor=session.feed.cursor if session else 0,
            outstanding=session.feed.unfinished if session else [],
            counters={**self.totals, **self._before()},
        )
        self.store.save(self.trainer, self.state, self.config.model)

    def _before(self) -> dict[str, float]:
        kept = {k: v for k, v in self.state.counters.items() if k.endswith("_before")}
        figures = self.evaluated.get("before")
        if isinstance(figures, EvaluationFigures):
            kept = {f"{k}_before": v for k, v in _shown(figures).items() if v is not None}
        return kept

    def summarise(self) -> None:
        """The learner's part of the summary, in learner_summary.json."""
        session = self.session
        if session is None:
            return
        after = self.evaluated.get("after")
        status = session.status()
        summary = {
            **{f"{name}_before": self._before().get(f"{name}_before") for name in _SHOWN},
            **{f"{name}_after": getattr(after, name, None) for name in _SHOWN},
            "steps": self.step,
            "version": self.version,
            "stopped": bool(self.process.stop),
            "seconds": dict(self.phase_seconds),
            "learner_tokens_per_s": self.totals["fed_tokens"] / max(self.totals["compute_s"], 1e-9),
            "tokens": int(self.totals["tokens"]),
            "tokens_masked_stale": int(self.totals["tokens_masked_stale"]),
            "staleness_max": int(self.totals["staleness_max"]),
            "groups_trained": int(self.totals["groups_trained"]),
            "groups_lost": max(0, len(session.feed.outstanding) - int(status["outstanding_train"])),
            "groups_dead_lettered": session.intake.num_dead_lettered,
            "groups_duplicated": session.intake.num_duplicated,
            "groups_retried": session.intake.num_retried,
            "cold_start_loss": self.totals.get("cold_start_loss"),
            "checkpoint": str(self.paths.checkpoints / f"step-{self.step}"),
        }
        write_atomic(self.paths.root / "learner_summary.json", json.dumps(summary, indent=1))
        record_event(self.paths, "phase", name="done")

    def close(self) -> None:
        """Leave the broker and the actors."""
        if self.session is not None:
            self.session.close()
        if (samples := getattr(self, "samples", None)) is not None:
            samples.close()
        publisher = getattr(self, "publisher", None)
        if publisher is not None:
            publisher.close()

    # ---------------------------------------------------------------- helpers

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure a part of the step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.times[part] += time.perf_counter() - began


_SHOWN = ("pass_at_1", "greedy", "mean_length", "greedy_mean_length", "cons_at_k", "truncated")


def _shown(figures: EvaluationFigures) -> dict[str, float | None]:
    return {name: getattr(figures, name) for name in _SHOWN}
