"""Run under torchrun: trains on batches that depend on the seed alone, then rank 0 writes what it ended with.

learner_ranks_worker.py OUT MODEL KL CHECKPOINT_DIR|- DEVICE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from learner.batch import build_batch, share
from learner.checkpoint import CheckpointStore, TrainingState, restore
from learner.ranks import Ranks
from learner.sft import cold_start
from learner.trainer import Trainer
from learner.weights import gather_full_tensors
from tests.learner_rig import make_config, make_group


def main(out: Path, model: str, kl: float, checkpoints: Path | None, device: str) -> None:
    """Cold start of 2 steps, 3 steps of GRPO; or with checkpoints, 1 step on from the newest."""
    import os

    config = make_config(
        model,
        learner={
            "ranks": int(os.environ.get("WORLD_SIZE", "1")),
            "device": device,
            "loss": {"kl_coef": kl},
            "reference_refresh_steps": 2,
            "tokens_per_microbatch": 40,
            "num_threads": 1,
        },
        cold_start={"steps": 2, "batch_size": 3, "lr": 1e-3, "warmup_steps": 0},
    )
    with Ranks(config.learner) as ranks:
        store = CheckpointStore(checkpoints or out.parent / "checkpoints", keep=2)
        source = store.latest() if checkpoints else None
        trainer = Trainer(config, source or model, ranks)
        first = 0
        if source is not None:
            first = restore(source, trainer).step
        else:
            examples = [([1, 2, 3], [4] * (1 + i % 5)) for i in range(10)]
            cold_start(trainer, examples, config.cold_start)
            trainer.refresh_reference()
        losses = []
        for step in range(first, 1 + first if checkpoints else 3):
            groups = [make_group(number, versions=step, seed=step) for number in range(3)]
            batch = build_batch(groups, step, config.learner)[0] if ranks.first else None
            figures = trainer.step(share(batch, ranks), step)
            losses.append([figures.loss, figures.grad_norm, figures.entropy, figures.ratio, figures.kl or 0.0])
        if not checkpoints:
            store.save(trainer, TrainingState(step=3, version=3), model)
            step = 3
            groups = [make_group(number, versions=step, seed=step) for number in range(3)]
            batch = build_batch(groups, step, config.learner)[0] if ranks.first else None
            figures = trainer.step(share(batch, ranks), step)
            losses.append([figures.loss, figures.grad_norm, figures.entropy, figures.ratio, figures.kl or 0.0])
        weights = dict(gather_full_tensors(trainer.policy.module))
        if ranks.first:
            torch.save({"weights": weights, "losses": torch.tensor(losses)}, out)


if __name__ == "__main__":
    checkpoint_folder = None if sys.argv[4] == "-" else Path(sys.argv[4])
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), checkpoint_folder, sys.argv[5])
