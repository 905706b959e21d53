"""TRL's side of vs_trl.py: one GRPOTrainer job on the CPU, in a process of its own, as a JSON file describes it.

    python benchmarks/trl_side.py JOB.json      (vs_trl.py writes JOB.json and reads JOB.out.json)

The clock runs from the start of training and stands still while a checkpoint is saved.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sides import completion_texts, read_lines
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from common.config import RunConfig, load_config
from evaluator.compose import grade_group
from learner.optimizer import learning_rate


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Notes when each step was done, saves checkpoints off the clock, stops at the time limit."""

    def __init__(self, job: dict[str, Any], tokenizer: Any) -> None:
        self.job, self.tokenizer = job, tokenizer
        self.steps: list[float] = []
        self.checkpoints: dict[int, str] = {}
        self.began = self.stood_still = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The clock starts."""
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """A step is done."""
        now = time.perf_counter()
        self.steps.append(now - self.began - self.stood_still)
        every = self.job["every"]
        if every and state.global_step % every == 0:
            path = Path(self.job["out"]) / f"step-{state.global_step}"
            model.save_pretrained(path)
            self.tokenizer.save_pretrained(path)
            self.checkpoints[state.global_step] = str(path)
        self.stood_still += time.perf_counter() - now
        if self.steps[-1] > self.job["limit_s"]:
            control.should_training_stop = True


class Grader:
    """zeroq's evaluator as a TRL reward function; counts the completion tokens of each step on the way."""

    __name__ = "zeroq_reward"

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.tokens: list[int] = []
        self.rewards: list[float] = []

    def __call__(
        self, prompts: list[str], completion_ids: list[list[int]], spec: list[str], **_: Any
    ) -> list[float | None]:
        """Rewards of a generation batch, whose groups are consecutive."""
        texts = completion_texts(self.tokenizer, completion_ids)
        size = self.config.rollout.group_size
        rewards: list[float | None] = []
        for at in range(0, len(texts), size):
            verdicts = grade_group(prompts[at], texts[at : at + size], json.loads(spec[at]), self.config.reward)
            rewards += [verdict.reward for verdict in verdicts]
        self.tokens.append(sum(len(ids) for ids in completion_ids))
        self.rewards.append(float(np.mean([r for r in rewards if r is not None])))
        return rewards


def problems_in_order(path: Path, config: RunConfig, num: int) -> list[dict[str, str]]:
    """The first `num` problems as zeroq's feed draws them: each epoch a shuffle seeded by run and epoch."""
    problems = read_lines(path)
    rows = []
    for number in range(num):
        epoch, position = divmod(number, len(problems))
        order = np.random.default_rng([config.seed, 1, epoch]).permutation(len(problems))
        problem = problems[int(order[position])]
        rows.append({"prompt": problem["prompt"], "spec": json.dumps(problem["spec"])})
    return rows


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Run the job; times and tokens of its steps."""
    torch.set_num_threads(job["threads"])
    run = Path(job["run"])
    config = load_config(run / "config.yaml")
    learner = config.learner
    tokenizer = AutoTokenizer.from_pretrained(job["start"])
    model = AutoModelForCausalLM.from_pretrained(job["start"], dtype=torch.float32)
    rows = problems_in_order(run / "data" / "train.jsonl", config, learner.groups_per_step * job["steps"])
    grader, clock = Grader(config, tokenizer), Clock(job, tokenizer)
    grader([rows[0]["prompt"]], [[tokenizer.eos_token_id]], [rows[0]["spec"]])  # imports the graders, off the clock
    grader.tokens.clear()
    grader.rewards.clear()
    batch = config.rollout.group_size * learner.groups_per_step
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": learner.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=learner.lr,
        betas=learner.betas,
        fused=True,
    )

    def shape(step: int) -> float:
        return learning_rate(
            learner.lr_schedule,
            1.0,
            step=step,
            progress=step / job["schedule_steps"],
            warmup_steps=learner.warmup_steps,
        )

    arguments = GRPOConfig(
        output_dir=str(Path(job["out"]) / "trainer"),
        max_steps=job["steps"],
        per_device_train_batch_size=batch // job["accumulate"],
        gradient_accumulation_steps=job["accumulate"],
        num_generations=config.rollout.group_size,
        max_completion_length=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
        learning_rate=learner.lr,
        max_grad_norm=learner.max_grad_norm,
        epsilon=learner.loss.clip_low,
        epsilon_high=learner.loss.clip_high,
        beta=0.0,
        loss_type="grpo",
        scale_rewards="group",
        shuffle_dataset=False,
        use_cpu=True,
        bf16=job["dtype"] == "bfloat16",
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=grader,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
        optimizers=(adam, torch.optim.lr_scheduler.LambdaLR(adam, shape)),
    )
    trainer.train()
    return {
        "steps": clock.steps,
        "tokens": grader.tokens[: len(clock.steps)],
        "rewards": grader.rewards[: len(clock.steps)],
        "checkpoints": clock.checkpoints,
    }


def main() -> None:
    """Read the job, run it, write the result beside it."""
    path = Path(sys.argv[1])
    result = train(json.loads(path.read_text(encoding="utf-8")))
    path.with_suffix(".out.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
