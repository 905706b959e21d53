"""The supervised job: tokenise -> load -> train (evaluate, save) -> summarise. `python -m learner.supervised`.

Reads DIR/config.yaml (common.job_config.SftConfig); no broker, no actors. Writes metrics.jsonl (TRL's names),
events.jsonl, checkpoints/step-N (Hugging Face directories) and learner_summary.json.

All ranks run this code in lockstep; rank 0 tokenises and writes files. Everything that decides a step follows from its
number and the seed, so a job that was killed and goes on from its last checkpoint ends with the same weights (but for
`sft.max_seconds`, which follows the clock).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from common.cli import Process, main_of
from common.errors import RunFailure, UserError
from common.job_config import CorpusFile, SftConfig
from common.lifecycle import record_event, write_atomic
from learner.checkpoint import CheckpointStore, TrainingState, restore
from learner.corpus import Corpus, CorpusFigures, Encoder, Tokenisation
from learner.model import load_policy
from learner.packing import Sequences
from learner.phases import Phases, never
from learner.ranks import Ranks, rank_of_environment
from learner.sft import EpochOrder, Schedule, SftFigures, SupervisedTrainer, train
from learner.supervised_log import SupervisedLog

log = logging.getLogger(__name__)

_RECENT = 20


def run(process: Process[SftConfig]) -> None:
    """Train until the data or the steps are through, or a request to stop; RunFailure when training fails."""
    with Ranks(process.config.learner, process.health) as ranks:
        process.health.ready()  # nobody depends on a job
        job = SupervisedJob(process, ranks)
        try:
            job.run()
        except OSError as error:
            raise RunFailure(
                f"a file of {process.paths.root} could not be written: {error}; the last checkpoint is "
                f"{job.store.latest() or 'none'}. Free space and go on with resume=auto"
            ) from error


class SupervisedJob(Phases):
    """One rank of a supervised job."""

    def __init__(self, process: Process[SftConfig], ranks: Ranks) -> None:
        super().__init__(process.paths, ranks, process.stop)
        self.process, self.config = process, process.config
        self.sft = process.config.sft
        self.store = CheckpointStore(self.paths.checkpoints, keep=self.config.learner.keep_checkpoints)
        self.state = TrainingState()
        self.step = 0
        self.elapsed_s = 0.0
        self.stopped = False
        self.figures: dict[str, CorpusFigures] = {}
        self.recent: deque[SftFigures] = deque(maxlen=_RECENT)
        self.evaluated: tuple[int, float, float] | None = None
        self.places: int | None = None

    def run(self) -> None:
        """The whole of a job."""
        if not (self.tokenise("train", self.sft.data) and self.tokenise("eval", self.sft.eval_data)):
            self.stopped = True
            self.summarise()
            return
        self.load()
        with self.phase("training"):
            outcome = train(
                self.trainer,
                self.batch,
                self.schedule,
                first_step=self.step,
                spent_s=self.elapsed_s,
                after_step=self.after_step,
                stopped=self.stopping,
            )
        self.step, self.elapsed_s, self.stopped = outcome.step, outcome.seconds, outcome.stopped
        if self.sft.eval_data and not self.stopped:
            self.evaluate()
        if self.step or not self.stopped:
            self.save()
        self.summarise()

    # ---------------------------------------------------------------- start

    def tokenise(self, name: str, files: list[CorpusFile]) -> bool:
        """Rank 0 writes DIR/data/NAME.tokens, the others wait; False when asked to stop meanwhile."""
        if not files:
            return True
        path = self.paths.root / "data" / name
        with self.phase("tokenising"):
            work = Tokenisation(files, self._encoder(), self.max_tokens, path) if self.ranks.first else None
            poll = work.poll if work else never
            if not self.ranks.wait_on_first(poll, lambda: bool(self.process.stop)):
                return False
            if work:
                self.figures[name] = work.figures
        if name == "train":
            self.corpus = Corpus(path)
        else:
            self.held_out = Corpus(path)
        return True

    def _encoder(self) -> Encoder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.config.model)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model {self.config.model!r}: no tokenizer that can be loaded: {reason}") from None
        return Encoder(tokenizer, self.config.model)

    @cached_property
    def max_tokens(self) -> int:
        """Longest example: `sft.max_tokens`, or the model's context. UserError when positions end before."""
        try:
            text = AutoConfig.from_pretrained(self.config.model).get_text_config()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model {self.config.model!r}: its config.json cannot be read: {reason}") from None
        context = int(getattr(text, "max_position_embeddings", None) or self.sft.max_tokens or 32_768)
        wanted = self.sft.max_tokens or context
        rotary = getattr(text, "rope_parameters", None) or getattr(text, "rope_theta", None)
        if wanted > context and not rotary:
            raise UserError(
                f"sft.max_tokens={wanted}: model {self.config.model} has {context} positions; lower sft.max_tokens"
            )
        return wanted

    def load(self) -> None:
        """Model, or checkpoint to go on from, and the plan of training."""
        with self.phase("loading"):
            source = self.store.find(self.config.resume)
            torch.manual_seed(self.config.seed)
            policy = load_policy(source or self.config.model, self.config.learner, self.ranks, always_shard=False)
            text = policy.module.config.get_text_config()  # type: ignore[union-attr,operator]
            context = getattr(text, "max_position_embeddings", None)
            if context is not None and self.max_tokens > context:
                # What is trained at this length must be usable at it; R1's students of 4,096 positions were changed so.
                log.info("context: %s -> %s positions", context, self.max_tokens)
                text.max_position_embeddings = self.max_tokens
            self.trainer = SupervisedTrainer(
                policy, self.ranks, self.config.learner, weight_decay=self.sft.weight_decay
            )
            self._plan()
            if source is not None:
                self.state = restore(source, self.trainer)
                self._verify_resume()
                self.step, self.elapsed_s = self.state.step, self.state.counters["elapsed_s"]
            self.saved_step = -1 if source is None else self.step
            self.resumed_from = source
            num_tokens = self.state.counters.get("num_tokens", 0)
            self.log = SupervisedLog(self.paths, self.schedule.steps, int(num_tokens), write=self.ranks.first)

    def _plan(self) -> None:
        """Order of the examples, number of steps, rates."""
        sft = self.sft
        counts = self.figures["train"].examples if self.ranks.first else None
        counts = self.ranks.broadcast(torch.tensor(counts) if counts else None).tolist()
        self.order = EpochOrder(counts, [f.weight for f in sft.data], seed=self.config.seed, shuffle=sft.shuffle)
        steps = sft.max_steps or sys.maxsize
        if sft.epochs is not None:
            self.places = max(1, round(sft.epochs * self.order.size))
            steps = min(steps, -(-self.places // sft.batch_size))
        self.schedule = Schedule(steps, sft.lr, sft.lr_final_ratio, sft.warmup(steps), sft.max_seconds)

    def _identity(self) -> dict[str, float]:
        """What must be as it was for a resume to go on with the same data."""
        tokens = int(self.corpus.starts[-1])
        return {"num_examples": len(self.corpus), "data_tokens": tokens, "batch_size": self.sft.batch_size}

    def _verify_resume(self) -> None:
        for name, now in self._identity().items():
            then = self.state.counters.get(name)
            if then != now:
                raise UserError(
                    f"resume: {name} is {now}, and was {then} when the checkpoint of step {self.state.step} was "
                    "written; put data and batch size back as they were, or start a new job from that checkpoint "
                    "(model=CHECKPOINT resume=never)"
                )

    # ---------------------------------------------------------------- steps

    def batch(self, step: int) -> tuple[Sequences, str]:
        """Examples of step `step` (from 0)."""
        first = step * self.sft.batch_size
        end = first + self.sft.batch_size
        chosen = self.order.places(first, end if self.places is None else min(end, self.places))
        return self.corpus.batch(chosen), f"examples {chosen[:8]}... (from 0, in DIR/data/train.tokens)"

    def after_step(self, step: int, figures: SftFigures, elapsed_s: float) -> None:
        """Evaluate, log and save as they fall due."""
        self.step, self.elapsed_s = step, elapsed_s
        self.recent.append(figures)
        self.log.trained(figures)
        every, last = self.sft.eval_every_steps, step == self.schedule.steps
        if self.sft.eval_data and (last or (every and step % every == 0)):
            self.evaluate()
        evaluated = self.evaluated if self.evaluated and self.evaluated[0] == step else None
        epoch = min(step * self.sft.batch_size, self.places or sys.maxsize) / self.order.size
        self.log.write(step, figures, epoch=epoch, evaluated=evaluated[1:] if evaluated else None)
        if step % self.config.learner.checkpoint_every_steps == 0 and not last:
            self.save()
        self.log.begin()

    def evaluate(self) -> None:
        """Loss on the held-out examples, unless it was measured at this step."""
        if self.evaluated is not None and self.evaluated[0] == self.step:
            return
        total = loss = accuracy = 0.0
        for first in range(0, len(self.held_out), self.sft.batch_size):
            batch = self.held_out.batch(range(first, min(first + self.sft.batch_size, len(self.held_out))))
            tokens = int(batch.completion_lengths_N.sum())
            part_loss, part_accuracy = self.trainer.evaluate(batch)
            total, loss, accuracy = total + tokens, loss + tokens * part_loss, accuracy + tokens * part_accuracy
        self.evaluated = (self.step, loss / total, accuracy / total)

    # ---------------------------------------------------------------- end

    def save(self) -> None:
        """Checkpoint of this step, unless there is one."""
        if self.saved_step == self.step:
            return
        self.saved_step = self.step
        counters = {
            **self._identity(),
            "num_tokens": self.log.num_tokens,
            "elapsed_s": self.elapsed_s,
            **self._recent(),
        }
        self.state = TrainingState(step=self.step, cursor=self.step * self.sft.batch_size, counters=counters)
        self.store.save(self.trainer, self.state, self.config.model)

    def _recent(self) -> dict[str, float]:
        """Means over the last steps; those in the checkpoint when there was nothing left to do."""
        names = ("loss", "mean_token_accuracy")
        if not self.recent:
            return {name: self.state.counters[name] for name in names if name in self.state.counters}
        sums = (sum(f.loss for f in self.recent), sum(f.accuracy for f in self.recent))
        return {name: total / len(self.recent) for name, total in zip(names, sums, strict=True)}

    def summarise(self) -> None:
        """The job's figures, in learner_summary.json."""
        if not self.ranks.first:
            return
        data = self.figures.get("train", CorpusFigures())
        checkpoint = self.paths.checkpoints / f"step-{self.step}"
        summary: dict[str, Any] = {
            "steps": self.step,
            "stopped": self.stopped,
            **{"loss": None, "mean_token_accuracy": None, **self._recent()},
            "eval_loss": self.evaluated[1] if self.evaluated else None,
            "eval_mean_token_accuracy": self.evaluated[2] if self.evaluated else None,
            "num_examples": sum(data.examples),
            "num_dropped": data.too_long + data.empty,
            "num_too_long": data.too_long,
            "num_empty": data.empty,
            "data_tokens": data.tokens,
            "seconds": sum(self.phase_seconds.values()),
            "phases_s": dict(self.phase_seconds),
            "checkpoint": str(checkpoint) if checkpoint.is_dir() else None,
        }
        if hasattr(self, "log"):
            summary |= {
                "of_steps": self.schedule.steps,
                "resumed_from": str(self.resumed_from) if self.resumed_from else None,
                "epochs": min(self.step * self.sft.batch_size, self.places or sys.maxsize) / self.order.size,
                "num_tokens": self.log.num_tokens,
                "tokens_per_s": self.log.tokens_per_s,
            }
        write_atomic(self.paths.root / "learner_summary.json", json.dumps(summary, indent=1))
        record_event(self.paths, "phase", name="done")


if __name__ == "__main__":
    rank = rank_of_environment()
    if rank:  # ranks beside the first are processes of their own in logs and process files
        name = sys.argv[sys.argv.index("--name") + 1] if "--name" in sys.argv else "learner"
        sys.argv += ["--name", f"{name}-rank{rank}"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.exit(main_of(SftConfig, "learner", run, "supervised fine-tuning (FSDP2)", export_metrics=rank == 0))
