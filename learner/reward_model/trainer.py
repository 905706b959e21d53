"""Owns one step of a reward model: micro-batches of whole rows through classifier and loss, then AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import TrainingSection
from common.job_config import RewardModelSection
from learner.optimizer import Optimizer
from learner.packing import plan_microbatches
from learner.ranks import Ranks
from learner.reward_model.loss import bradley_terry, point_wise
from learner.reward_model.model import Classifier
from learner.reward_model.store import Store


@dataclass(frozen=True)
class StepFigures:
    """What a step reports, over all ranks. Means are over rows."""

    loss: float
    """Nats."""
    accuracy: float
    """Pairs ranked right (a tie counts half), or responses on the right side of 0."""
    margin: float
    """Mean of score times side: chosen - rejected, or the score with its sign turned for unsafe responses."""
    grad_norm: float
    learning_rate: float
    num_tokens: int


class RewardTrainer:
    """Classifier and optimizer. The same on every rank; `step` and `score` are collective."""

    reference = None

    def __init__(
        self, classifier: Classifier, ranks: Ranks, learner: TrainingSection, section: RewardModelSection
    ) -> None:
        self.policy, self.ranks, self.section = classifier, ranks, section
        self.budget = learner.tokens_per_microbatch
        self.optimizer = Optimizer(
            classifier.module,
            betas=learner.betas,
            weight_decay=section.weight_decay,
            max_grad_norm=learner.max_grad_norm,
        )

    def step(self, store: Store, rows: Sequence[int], rate: float, *, where: str) -> StepFigures:
        """One optimizer step on the mean over `rows`; RunFailure, before any update, if it is not finite."""
        sums = torch.zeros(3, dtype=torch.float64)
        for part in self._plan(store, rows)[self.ranks.rank]:
            scores_N = self._scores(store, [rows[index] for index in part])
            if not part:
                (0.0 * scores_N.sum()).backward()  # type: ignore[no-untyped-call]
                continue
            values = torch.tensor([store.values[rows[index]] for index in part], dtype=torch.float32)
            loss_N, side_N = self._loss(scores_N, values.to(scores_N.device))
            loss = loss_N.sum() / len(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            right = (side_N > 0).double() + 0.5 * (side_N == 0).double()
            sums += torch.stack([loss.detach().double(), right.sum(), side_N.double().sum()]).cpu()
        loss_sum, right_sum, side_sum = self.ranks.sum(sums).tolist()
        norm = self.optimizer.step(rate, loss_sum, where=where)
        tokens = int(sum(self._row_lengths(store, rows)))
        return StepFigures(loss_sum, right_sum / len(rows), side_sum / len(rows), norm, rate, tokens)

    @torch.no_grad()
    def score(self, store: Store, rows: Sequence[int]) -> NDArray[np.float64]:
        """Raw scores float64[rows, sequences of a row], on all ranks."""
        scores = torch.zeros(len(rows), store.per_row, dtype=torch.float64)
        self.policy.module.eval()
        try:
            for part in self._plan(store, rows)[self.ranks.rank]:
                found = self._scores(store, [rows[index] for index in part])
                if part:
                    scores[part] = found.view(-1, store.per_row).double().cpu()
        finally:
            self.policy.module.train()
        result: NDArray[np.float64] = self.ranks.sum(scores).numpy()
        return result

    def losses(self, scores: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loss of each row, nats, from its raw scores."""
        loss_N, _ = self._loss(torch.from_numpy(scores).flatten(), torch.from_numpy(values))
        result: NDArray[np.float64] = loss_N.numpy()
        return result

    def _loss(self, scores_N: Tensor, values_R: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each row, and by how much it is on the right side (without a gradient)."""
        if self.section.kind == "helpful":
            chosen_R, rejected_R = scores_N.view(-1, 2).unbind(1)
            loss_R = bradley_terry(chosen_R, rejected_R, self.section.margin_scale * values_R)
            return loss_R, (chosen_R - rejected_R).detach()
        return point_wise(scores_N, values_R), (scores_N * (2 * values_R - 1)).detach()

    def _scores(self, store: Store, rows: Sequence[int]) -> Tensor:
        sequences = [sequence for row in rows for sequence in store.sequences(row)]
        return self.policy.scores(sequences, self.ranks.device, share=store.per_row == 2)

    def _plan(self, store: Store, rows: Sequence[int]) -> list[list[list[int]]]:
        return plan_microbatches(self._row_lengths(store, rows), self.budget, self.ranks.size)

    def _row_lengths(self, store: Store, rows: Sequence[int]) -> list[int]:
        lengths = store.lengths.reshape(-1, store.per_row).sum(1)
        return [int(lengths[row]) for row in rows]
