"""The supervised job in this process: its loss, its log, its checkpoints, and that it goes on as if never stopped."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import RunFailure, UserError
from learner import supervised
from learner.checkpoint import verify
from learner.head import token_logprobs
from learner.model import load_policy
from learner.packing import Sequences
from learner.ranks import Ranks
from learner.sft import SupervisedTrainer
from learner.supervised_log import SupervisedLog
from tests.learner_rig import read_lines, tiny_model
from tests.supervised_rig import PAIRS, job_config, job_process, optimizer_state, weights, write_corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "train.parquet")


@pytest.fixture
def ranks(model: Path) -> Iterator[Ranks]:
    with Ranks(job_config(model, "unused.parquet").learner) as pool:
        yield pool


def make_trainer(model: Path, ranks: Ranks, **learner: Any) -> SupervisedTrainer:
    config = job_config(model, "unused.parquet", learner=learner).learner
    return SupervisedTrainer(load_policy(model, config, ranks), ranks, config, weight_decay=0.0)


BATCH = Sequences.of([([5, 6, 7], [8, 9, 10, 11]), ([5, 6], [3]), ([20, 21, 22, 23, 24], [25, 26])])


def reference(model: Path) -> tuple[float, float]:
    """Loss and accuracy over BATCH's response tokens, sequence by sequence in float64 by transformers itself."""
    whole = AutoModelForCausalLM.from_pretrained(model).double()
    losses, right = [], []
    for index in range(len(BATCH)):
        ids = torch.tensor([[*BATCH.prompt(index), *BATCH.completion(index)]])
        logits = whole(ids).logits[0, len(BATCH.prompt(index)) - 1 : -1]
        targets = torch.tensor(BATCH.completion(index))
        losses += F.cross_entropy(logits, targets, reduction="none").tolist()
        right += (logits.argmax(-1) == targets).tolist()
    return sum(losses) / len(losses), sum(right) / len(right)


@pytest.mark.parametrize("budget", [1000, 6])
def test_loss_is_the_mean_over_response_tokens_of_the_batch(model: Path, ranks: Ranks, budget: int) -> None:
    trainer = make_trainer(model, ranks, tokens_per_microbatch=budget)
    loss, accuracy = reference(model)
    assert trainer.evaluate(BATCH) == pytest.approx((loss, accuracy), rel=1e-5)
    figures = trainer.step(BATCH, 0.0, where="here")
    assert (figures.loss, figures.accuracy) == pytest.approx((loss, accuracy), rel=1e-5)
    assert figures.num_tokens == 6 + 2 + 6
    assert trainer.evaluate(BATCH)[0] == pytest.approx(loss, rel=1e-5)  # nothing was trained at rate 0


def test_recomputing_blocks_changes_nothing_but_memory(model: Path, ranks: Ranks) -> None:
    results = []
    for recompute in (False, True):
        trainer = make_trainer(model, ranks, recompute=recompute)
        figures = trainer.step(BATCH, 1e-2, where="here")
        results.append((figures, [p.full_tensor() for p in trainer.policy.module.parameters()]))  # type: ignore[attr-defined]
    (plain, first), (again, second) = results
    assert (again.loss, again.grad_norm) == pytest.approx((plain.loss, plain.grad_norm), rel=1e-6)
    for own, other in zip(first, second, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)
    trainer = make_trainer(model, ranks, recompute=True)
    calls = []
    layer = trainer.policy.module.model.layers[0].mlp  # type: ignore[union-attr,index]
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.step(BATCH, 0.0, where="here")
    assert len(calls) == 2  # once forward, once again for the backward pass


def test_correct_counts_the_likeliest_tokens_and_changes_no_log_probability() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8), torch.randn(6, 8)
    targets = torch.randint(0, 6, (50,))
    logprobs, correct = token_logprobs(hidden, weight, targets, 0.7, chunk=7, statistic="correct")
    logits = hidden @ weight.t()
    assert correct.tolist() == (logits.argmax(-1) == targets).float().tolist()
    assert 0 < correct.sum() < 50
    torch.testing.assert_close(logprobs, token_logprobs(hidden, weight, targets, 0.7)[0])


def test_a_job_learns_and_says_how(tmp_path: Path, model: Path, corpus: Path) -> None:
    held_out = write_corpus(tmp_path / "held_out.jsonl", PAIRS[:9])
    sft = {"max_steps": None, "epochs": 2.0, "eval_data": str(held_out), "eval_every_steps": 5, "lr": 3e-2}
    process = job_process(tmp_path / "run", job_config(model, corpus, sft=sft))
    supervised.run(process)
    rows = read_lines(process.paths.metrics)
    assert [row["step"] for row in rows] == list(range(1, 14))  # 100 places in batches of 8, the last of 4
    assert rows[0]["loss"] == pytest.approx(math.log(640), rel=0.1)
    assert rows[-1]["loss"] < rows[0]["loss"] - 2
    assert rows[-1]["mean_token_accuracy"] > 0.4
    assert [row["step"] for row in rows if "eval_loss" in row] == [5, 10, 13]
    assert [row["epoch"] for row in rows][-2:] == pytest.approx([96 / 50, 2.0])
    rates = [row["learning_rate"] for row in rows]
    assert rates[:3] == pytest.approx([3e-2 / 3 * k * _cosine((k - 1) / 13) for k in (1, 2, 3)])
    assert rates[-1] == pytest.approx(3e-2 * _cosine(12 / 13))
    assert all(row["num_tokens"] > 0 and row["step_time"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert [row["num_tokens"] for row in rows] == sorted(row["num_tokens"] for row in rows)

    summary = json.loads((process.paths.root / "learner_summary.json").read_text())
    assert (summary["steps"], summary["of_steps"], summary["epochs"], summary["stopped"]) == (13, 13, 2.0, False)
    assert summary["eval_loss"] == rows[-1]["eval_loss"]
    assert (summary["num_examples"], summary["num_dropped"]) == (50, 0)
    events = read_lines(process.paths.events)
    assert [e["name"] for e in events if e["event"] == "phase"] == [
        "tokenising", "tokenising", "loading", "training", "done",
    ]  # fmt: skip
    last = [e for e in events if e["event"] == "progress"][-1]
    assert (last["step"], last["of"], last["loss"]) == (13, 13, rows[-1]["loss"])

    saved = process.paths.checkpoints / "step-13"
    assert verify(saved)["step"] == 13
    trained = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    ids = tokenizer(PAIRS[0][0] + PAIRS[0][1], return_tensors="pt").input_ids
    fresh = AutoModelForCausalLM.from_pretrained(model)
    assert trained(ids, labels=ids).loss < fresh(ids, labels=ids).loss - 1


def _cosine(progress: float) -> float:
    """Cosine down to a tenth."""
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def stop_at(monkeypatch: pytest.MonkeyPatch, process: Any, step: int) -> None:
    """Ask the job to stop once it has logged `step`."""
    write = SupervisedLog.write

    def spy(self: SupervisedLog, number: int, *arguments: Any, **options: Any) -> None:
        write(self, number, *arguments, **options)
        if number == step:
            process.stop.set()

    monkeypatch.setattr(SupervisedLog, "write", spy)


def test_a_stopped_job_saves_and_goes_on_bit_for_bit(
    tmp_path: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job_process(tmp_path / "whole", job_config(model, corpus))
    supervised.run(whole)
    config = job_config(model, corpus, resume="auto")
    first = job_process(tmp_path / "parts", config)
    with monkeypatch.context() as patch:
        stop_at(patch, first, 7)
        supervised.run(first)
    summary = json.loads((first.paths.root / "learner_summary.json").read_text())
    assert (summary["steps"], summary["stopped"]) == (7, True)
    assert (first.paths.checkpoints / "step-7" / "manifest.json").exists()
    supervised.run(job_process(tmp_path / "parts", config))

    ends = [root / "checkpoints" / "step-10" for root in (whole.paths.root, first.paths.root)]
    own, other = (weights(end) for end in ends)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    moments, others = (optimizer_state(end) for end in ends)
    assert all(torch.equal(moments[name]["exp_avg_sq"], others[name]["exp_avg_sq"]) for name in moments)
    for key in ("step", "loss", "grad_norm", "learning_rate", "num_tokens", "epoch"):
        assert [r[key] for r in read_lines(whole.paths.metrics)] == [r[key] for r in read_lines(first.paths.metrics)]
    summary = json.loads((first.paths.root / "learner_summary.json").read_text())
    assert summary["resumed_from"] == str(first.paths.checkpoints / "step-7")


def test_a_finished_job_resumed_does_nothing_and_other_data_are_refused(
    tmp_path: Path, model: Path, corpus: Path
) -> None:
    config = job_config(model, corpus, resume="auto", sft={"max_steps": 2})
    summaries = []
    for _ in range(2):
        supervised.run(job_process(tmp_path / "run", config))
        summaries.append(json.loads((tmp_path / "run" / "learner_summary.json").read_text()))
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 2
    for name in ("steps", "loss", "mean_token_accuracy", "num_tokens", "checkpoint"):
        assert summaries[1][name] == summaries[0][name]
    assert summaries[1]["loss"] == pytest.approx((rows[0]["loss"] + rows[1]["loss"]) / 2)
    other = write_corpus(tmp_path / "other.parquet", PAIRS[:40])
    with pytest.raises(UserError, match=r"num_examples is 40, and was 50 when the checkpoint of step 2"):
        supervised.run(job_process(tmp_path / "run", job_config(model, other, resume="auto")))
    changed = job_config(model, corpus, resume="auto", sft={"batch_size": 4})
    with pytest.raises(UserError, match="batch_size is 4, and was 8"):
        supervised.run(job_process(tmp_path / "run", changed))


def test_a_loss_that_is_not_finite_ends_the_job_before_the_step(
    tmp_path: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = SupervisedTrainer._measure, []

    def broken(self: SupervisedTrainer, batch: Sequences, *, train: bool) -> tuple[float, float]:
        loss, accuracy = measure(self, batch, train=train)
        calls.append(loss)
        return (math.nan if len(calls) == 6 else loss), accuracy

    monkeypatch.setattr(SupervisedTrainer, "_measure", broken)
    process = job_process(tmp_path / "run", job_config(model, corpus))
    with pytest.raises(RunFailure, match=r"loss nan .*nothing was updated.*examples \["):
        supervised.run(process)
    assert [path.name for path in process.paths.checkpoints.iterdir()] == ["step-4"]
    assert len(read_lines(process.paths.metrics)) == 5


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    save = torch.save

    def full(*arguments: Any, **options: Any) -> None:
        saves.append(1)
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(torch, "save", full)
    process = job_process(tmp_path / "run", job_config(model, corpus))
    with pytest.raises(RunFailure, match=r"No space left.*step-4.*resume=auto"):
        supervised.run(process)
    assert [path.name for path in process.paths.checkpoints.iterdir()] == ["step-4"]
    verify(process.paths.checkpoints / "step-4")


def test_a_disk_that_is_full_when_metrics_are_written_ends_the_job_in_one_line(
    tmp_path: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SupervisedLog, "write", full)
    with pytest.raises(RunFailure, match=r"No space left.*the last checkpoint is none"):
        supervised.run(job_process(tmp_path / "run", job_config(model, corpus)))


def test_a_time_limit_ends_the_job_with_a_checkpoint(tmp_path: Path, model: Path, corpus: Path) -> None:
    config = job_config(model, corpus, sft={"max_steps": 1_000_000, "max_seconds": 0.5})
    process = job_process(tmp_path / "run", config)
    supervised.run(process)
    rows = read_lines(process.paths.metrics)
    assert 1 <= len(rows) < 1000
    assert (process.paths.checkpoints / f"step-{len(rows)}" / "manifest.json").exists()
    assert not json.loads((process.paths.root / "learner_summary.json").read_text())["stopped"]


def test_a_longer_context_is_written_into_the_checkpoint(tmp_path: Path, model: Path, corpus: Path) -> None:
    sft = {"max_steps": 1, "max_tokens": 6000}
    process = job_process(tmp_path / "run", job_config(model, corpus, sft=sft))
    supervised.run(process)
    assert json.loads((model / "config.json").read_text())["max_position_embeddings"] == 4096
    saved = json.loads((process.paths.checkpoints / "step-1" / "config.json").read_text())
    assert saved["max_position_embeddings"] == 6000


def test_positions_that_end_are_an_error(tmp_path: Path, model: Path, corpus: Path) -> None:
    import transformers

    folder = tmp_path / "gpt2"
    configuration = transformers.GPT2Config(vocab_size=640, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(configuration).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    process = job_process(tmp_path / "run", job_config(folder, corpus, sft={"max_tokens": 65}))
    with pytest.raises(UserError, match=r"sft\.max_tokens=65: model .* has 64 positions"):
        supervised.run(process)
