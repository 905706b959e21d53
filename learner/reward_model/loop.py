"""The job of a reward model: prepare -> load -> train (measure, save) -> measure -> save -> reward_model.json.

Reads DIR/config.yaml (common.job_config.RewardModelConfig); no broker, no actors. Writes metrics.jsonl, events.jsonl,
checkpoints/step-N and learner_summary.json. The last checkpoint gets reward_model.json once the held-out preferences
are measured: that makes it a reward model that evaluators take.

All ranks run this code in lockstep; rank 0 tokenises and writes files. Everything that decides a step follows from its
number and the seed, so a job that was killed and goes on from its last checkpoint ends with the same weights.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from common.cli import Process
from common.errors import RunFailure, UserError
from common.job_config import RewardModelConfig
from common.lifecycle import record_event, write_atomic
from common.reward_model import RewardModelFacts, padding, write_reward_model
from learner.checkpoint import CheckpointStore, TrainingState, restore
from learner.optimizer import learning_rate
from learner.phases import Phases, never
from learner.ranks import Ranks
from learner.reward_model.log import RewardLog
from learner.reward_model.measure import HeldOutFigures, measure
from learner.reward_model.model import load_classifier
from learner.reward_model.records import TEXTS
from learner.reward_model.store import Preparation, Store, StoreFigures, check_overlap
from learner.reward_model.trainer import RewardTrainer, StepFigures
from learner.sft import EpochOrder

_RECENT = 20


def run(process: Process[RewardModelConfig]) -> None:
    """Train until the data or the steps are through, or a request to stop; RunFailure when training fails."""
    with Ranks(process.config.learner, process.health) as ranks:
        process.health.ready()  # nobody depends on a job
        job = RewardModelJob(process, ranks)
        try:
            job.run()
        except OSError as error:
            raise RunFailure(
                f"a file of {process.paths.root} could not be written: {error}; the last checkpoint is "
                f"{job.store.latest() or 'none'}. Free space and go on with resume=auto"
            ) from error


class RewardModelJob(Phases):
    """One rank of the job."""

    def __init__(self, process: Process[RewardModelConfig], ranks: Ranks) -> None:
        super().__init__(process.paths, ranks, process.stop)
        self.process, self.config = process, process.config
        self.section = process.config.reward_model
        self.store = CheckpointStore(self.paths.checkpoints, keep=self.config.learner.keep_checkpoints)
        self.state = TrainingState()
        self.step = 0
        self.num_steps = 0
        self.stopped = False
        self.figures: dict[str, StoreFigures] = {}
        self.recent: deque[StepFigures] = deque(maxlen=_RECENT)
        self.measured: HeldOutFigures | None = None
        self._measured_at = -1
        self.num_shared_prompts = 0

    def run(self) -> None:
        """The whole of a job."""
        if not self.prepare():
            self.stopped = True
            self.summarise(None)
            return
        self.load()
        with self.phase("training"):
            while self.step < self.num_steps:
                if self.stopping():
                    self.stopped = True
                    break
                self.train_step()
        if not self.stopped:
            self.measure()
        checkpoint = self.save() if self.step or not self.stopped else None
        if not self.stopped and self.ranks.first:
            assert checkpoint is not None
            write_reward_model(checkpoint, self.facts())
        self.ranks.barrier()
        self.summarise(checkpoint)

    # ---------------------------------------------------------------- start

    def prepare(self) -> bool:
        """Rank 0 tokenises the preferences, the others wait; False when asked to stop meanwhile."""
        section, per_row = self.section, len(TEXTS[self.section.kind])
        self.tokenizer = self._tokenizer()
        for name, source in (("train", section.data), ("eval", section.eval_data)):
            if source is not None and not self._tokenise(name, source):
                return False
        folder = self.paths.root / "data"
        self.train = self.held_out = Store(folder / "train", per_row)
        if section.eval_data is None:
            self.train_rows, self.eval_rows = self.train.split(section.eval_size, self.config.seed)
        else:
            self.held_out = Store(folder / "eval", per_row)
            self.num_shared_prompts = check_overlap(self.train, self.held_out, section.eval_data)
            self.train_rows = np.arange(len(self.train))
            self.eval_rows = np.arange(min(len(self.held_out), section.eval_size))
        return True

    def _tokenise(self, name: str, source: str) -> bool:
        with self.phase("tokenising"):
            work = None
            if self.ranks.first:
                path, limit = self.paths.root / "data" / name, self.section.limit if name == "train" else None
                work = Preparation(source, self.section, self.tokenizer, self._vocab_size(), path, limit)
                self.figures[name] = work.figures
            poll = work.poll if work else never
            return self.ranks.wait_on_first(poll, lambda: bool(self.process.stop))

    def _tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.config.model)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"model {self.config.model!r}: no tokenizer that can be loaded: {reason}") from None

    def _vocab_size(self) -> int:
        try:
            return int(AutoConfig.from_pretrained(self.config.model).get_text_config().vocab_size)
        except (OSError, ValueError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"model {self.config.model!r}: no configuration that can be loaded: {reason}") from None

    def load(self) -> None:
        """Model, or checkpoint to go on from, and the plan of training."""
        with self.phase("loading"):
            source = self.resumed_from = self.store.find(self.config.resume)
            torch.manual_seed(self.config.seed)
            classifier = load_classifier(
                source or self.config.model, self.config.learner, self.ranks, padding(self.tokenizer)
            )
            self.trainer = RewardTrainer(classifier, self.ranks, self.config.learner, self.section)
            self.order = EpochOrder([len(self.train_rows)], seed=self.config.seed)
            self.places = max(1, round(self.section.epochs * self.order.size))
            steps = -(-self.places // self.section.batch_size)
            self.num_steps = min(steps, self.section.max_steps or steps)
            if source is not None:
                self.state = restore(source, self.trainer)
                self._verify_resume()
                self.step = self.state.step
            self.saved_step = -1 if source is None else self.step
            self.log = RewardLog(
                self.paths, self.num_steps, int(self.state.counters.get("num_tokens", 0)), write=self.ranks.first
            )

    def _identity(self) -> dict[str, float]:
        """What must be as it was for a resume to go on with the same data."""
        return {
            "num_rows": len(self.train_rows),
            "data_tokens": self.train.num_tokens,
            "batch_size": self.section.batch_size,
        }

    def _verify_resume(self) -> None:
        for name, now in self._identity().items():
            then = self.state.counters.get(name)
            if then != now:
                raise UserError(
                    f"resume: {name} is {now}, and was {then} when the checkpoint of step {self.state.step} was "
                    "written; put data and batch size back as they were, or start a new job"
                )

    # ---------------------------------------------------------------- steps

    def train_step(self) -> None:
        """One optimizer step; measure, log and save as they fall due."""
        section = self.section
        first = self.step * section.batch_size
        chosen = self.order.places(first, min(first + section.batch_size, self.places))
        rows = [int(self.train_rows[place]) for place in chosen]
        rate = learning_rate(
            section.lr_schedule,
            section.lr,
            step=self.step,
            progress=self.step / self.num_steps,
            warmup_steps=section.warmup_steps,
            final_ratio=section.lr_final_ratio,
        )
        self.log.begin()
        figures = self.trainer.step(
            self.train, rows, rate, where=f"step {self.step + 1}, rows {rows[:8]}... (from 0) of DIR/data/train.tokens"
        )
        self.step += 1
        self.recent.append(figures)
        self.log.trained(figures)
        every, last = section.eval_every_steps, self.step == self.num_steps
        measured = last or bool(every and self.step % every == 0)
        if measured:
            self.measure()
        epoch = min(self.step * section.batch_size, self.places) / self.order.size
        self.log.write(self.step, figures, epoch=epoch, measured=self.measured if measured else None)
        if self.step % self.config.learner.checkpoint_every_steps == 0 and not last:
            self.save()

    def measure(self) -> None:
        """Figures on the held-out rows, unless those of this step are known. RunFailure when a score is not finite."""
        if self.measured is not None and self._measured_at == self.step:
            return
        rows = [int(row) for row in self.eval_rows]
        scores = self.trainer.score(self.held_out, rows)
        if not np.isfinite(scores).all():
            place = int(np.flatnonzero(~np.isfinite(scores).all(1))[0])
            raise RunFailure(f"step {self.step}: the score of held-out row {rows[place]} (from 0) is not finite")
        values = self.held_out.values[rows]
        characters = self.held_out.characters.reshape(-1, self.held_out.per_row)[rows]
        self.measured = measure(scores, values, self.trainer.losses(scores, values), characters)
        self._measured_at = self.step

    # ---------------------------------------------------------------- end

    def save(self) -> Path:
        """Checkpoint of this step, unless there is one."""
        path = self.paths.checkpoints / f"step-{self.step}"
        if self.saved_step == self.step:
            return path
        self.saved_step = self.step
        counters = {**self._identity(), "num_tokens": self.log.num_tokens}
        self.state = TrainingState(step=self.step, cursor=self.step * self.section.batch_size, counters=counters)
        return self.store.save(self.trainer, self.state, self.config.model)

    def facts(self) -> RewardModelFacts:
        """What evaluators must know of the finished model."""
        assert self.measured is not None
        return RewardModelFacts(
            kind=self.section.kind,
            reads=self.section.read_part,
            max_tokens=self.section.max_tokens,
            offset=self.measured.offset,
            scale=self.measured.scale,
            floor=self.measured.floor,
        )

    def summarise(self, checkpoint: Path | None) -> None:
        """The job's figures, in learner_summary.json. `accuracy` and what follows it are held-out figures."""
        if not self.ranks.first:
            return
        recent, data = list(self.recent), self.figures.get("train", StoreFigures())
        summary: dict[str, Any] = {
            "steps": self.step,
            "of_steps": self.num_steps,
            "stopped": self.stopped,
            "reward_kind": self.section.kind,
            "reads": self.section.read_part,
            "train_loss": sum(f.loss for f in recent) / len(recent) if recent else None,
            "train_accuracy": sum(f.accuracy for f in recent) / len(recent) if recent else None,
            "rows": data.rows,
            "rows_unreadable": data.unreadable,
            "rows_same": data.same,
            "texts_cut": data.cut,
            "seconds": dict(self.phase_seconds),
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
        }
        if self.num_steps:
            rows = "num_pairs" if self.section.kind == "helpful" else "num_examples"
            summary |= {
                rows: len(self.train_rows),
                "num_held_out": len(self.eval_rows),
                "held_out_rows_with_a_trained_prompt": self.num_shared_prompts,
                "resumed_from": str(self.resumed_from) if self.resumed_from else None,
                "num_tokens": self.log.num_tokens,
                "learner_tokens_per_s": self.log.tokens_per_s,
            }
        if self.measured is not None:
            found = asdict(self.measured)
            summary |= {"eval_loss": found.pop("loss")}
            summary |= {name: value for name, value in found.items() if name != "num_rows"}
        write_atomic(self.paths.root / "learner_summary.json", json.dumps(summary, indent=1))
        record_event(self.paths, "phase", name="done")
