"""Training of reward models in this process: what is learned, what is read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.config_file import load
from common.errors import RunFailure, UserError
from common.job_config import RewardModelConfig, RewardModelSection, load_reward_model_config
from common.reward_model import judged_text, read_reward_model
from evaluator.scoring.model import RewardModel
from learner.checkpoint import verify
from learner.reward_model.records import read_records
from learner.reward_model.store import Preparation, Store, check_overlap
from recipes.tiny_model import create_tokenizer
from tests.reward_rig import make_base, make_job, preferences, run_job, write_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model")


def served(checkpoint: str, rows: list[dict[str, Any]], name: str) -> list[float]:
    model = RewardModel(checkpoint, read_reward_model(checkpoint), "cpu", "float32")
    found = [model.encode(row["prompt"], [row[name]])[0] for row in rows]
    return [model.score([item.ids])[0] or 0.0 for item in found if item is not None]


def test_helpfulness_is_learned_from_pairs_and_served_as_trained(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.parquet", preferences("helpful", 400))
    held_out = write_rows(tmp_path / "held_out.parquet", preferences("helpful", 80, seed=1))
    summary = run_job(tmp_path / "run", make_job(base, "helpful", data, eval_data=str(held_out), max_steps=20))
    assert (summary["steps"], summary["num_pairs"], summary["num_held_out"]) == (20, 400, 80)
    assert summary["accuracy"] > 0.95
    assert abs(summary["length_difference_correlation"]) < 0.5
    assert sum(entry["rows"] for entry in summary["accuracy_by_length"].values()) == 80
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)  # the head begins at zero
    assert steps[0]["accuracy"] == 0.5
    assert steps[-1]["loss"] < 0.3
    assert steps[-1]["eval_accuracy"] == summary["accuracy"]
    assert steps[0]["learning_rate"] == pytest.approx(2e-3)
    assert steps[-1]["learning_rate"] < 3e-4

    checkpoint = summary["checkpoint"]
    verify(Path(checkpoint))
    facts = read_reward_model(checkpoint)
    assert (facts.kind, facts.reads, facts.max_tokens) == ("helpful", "summary", 128)
    rows = preferences("helpful", 80, seed=1)
    chosen, rejected = served(checkpoint, rows, "chosen"), served(checkpoint, rows, "rejected")
    scores = np.array([chosen, rejected])
    assert scores.mean() == pytest.approx(0.0, abs=1e-4)
    assert scores.std() == pytest.approx(1.0, abs=1e-4)
    assert scores.min() == pytest.approx(facts.floor, abs=1e-4)
    assert np.mean(scores[0] > scores[1]) == pytest.approx(summary["accuracy"])
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    question, text = judged_text("summary", rows[0]["prompt"], rows[0]["chosen"])
    ids = [*tokenizer(question)["input_ids"], *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        direct = float(model(input_ids=torch.tensor([ids])).logits[0, 0])
    assert chosen[0] == pytest.approx((direct - facts.offset) / facts.scale, abs=1e-5)


def test_safety_is_learned_from_labels_and_only_where_the_reasoning_is_read(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "labels.jsonl", preferences("safety", 440))
    seen = run_job(tmp_path / "seen", make_job(base, "safety", data, max_steps=25))
    assert (seen["reads"], seen["num_examples"], seen["num_held_out"]) == ("response", 396, 44)
    assert seen["accuracy"] > 0.95
    assert seen["auc"] > 0.97
    blind = run_job(tmp_path / "blind", make_job(base, "safety", data, max_steps=25, reads="summary"))
    assert blind["reads"] == "summary"
    assert blind["auc"] < 0.75  # the summary does not show it


def test_a_stopped_job_goes_on_and_ends_with_the_same_weights(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 100))
    whole = run_job(tmp_path / "whole", make_job(base, "helpful", data, epochs=1.0))
    assert whole["steps"] == 6  # 90 pairs in batches of 16
    settings = {"learner": {"checkpoint_every_steps": 3}}
    run_job(tmp_path / "parts", make_job(base, "helpful", data, **settings))
    (tmp_path / "parts" / "checkpoints" / "step-6" / "manifest.json").unlink()  # as if killed while it was written
    resumed = run_job(tmp_path / "parts", make_job(base, "helpful", data, resume="auto", **settings))
    assert resumed["resumed_from"].endswith("step-3")
    weights = [(Path(s["checkpoint"]) / "model.safetensors").read_bytes() for s in (whole, resumed)]
    assert weights[0] == weights[1]
    assert resumed["accuracy_by_length"] == whole["accuracy_by_length"]
    more = write_rows(tmp_path / "more.jsonl", preferences("helpful", 120))
    with pytest.raises(UserError, match="resume: num_rows is 108, and was 90"):
        run_job(tmp_path / "parts", make_job(base, "helpful", more, resume="auto", **settings))


def test_a_reward_model_can_be_trained_further(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 100))
    first = run_job(tmp_path / "first", make_job(base, "helpful", data, max_steps=6))
    second = run_job(tmp_path / "second", make_job(Path(first["checkpoint"]), "helpful", data, max_steps=1))
    assert second["train_loss"] < 0.68
    files = json.loads((Path(second["checkpoint"]) / "manifest.json").read_text())["files"]
    assert "reward_model.json" not in files  # that of the first would make any checkpoint a reward model


def test_the_margin_is_asked_for_in_the_loss(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 40))
    plain = run_job(tmp_path / "plain", make_job(base, "helpful", data, max_steps=1))
    asked = run_job(tmp_path / "asked", make_job(base, "helpful", data, max_steps=1, margin_scale=2.0))
    assert plain["train_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert asked["train_loss"] == pytest.approx(np.log(1 + np.exp(2.0)), abs=1e-6)


def test_a_loss_that_is_not_finite_updates_nothing(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 40))
    with pytest.raises(RunFailure, match=r"nothing was updated or published\. Trained on: step [123], rows \["):
        run_job(tmp_path / "run", make_job(base, "helpful", data, lr=1e30, lr_schedule="constant", max_steps=3))


PAIR = preferences("helpful", 1)[0]
LABELLED = preferences("safety", 2)


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("helpful", LABELLED, r"no column 'chosen' and 'rejected'; .* this is data of kind: safety"),
        ("safety", [PAIR], r"no column 'response' and 'label'; .* this is data of kind: helpful"),
        ("helpful", [PAIR, PAIR | {"chosen": " "}], r"2: 'chosen' is empty; remove the row"),
        ("helpful", [PAIR, PAIR | {"prompt": ""}], r"2: 'prompt' is empty"),
        ("helpful", [PAIR | {"rejected": None}], r"1: 'rejected' must be text, found NoneType"),
        ("helpful", [PAIR, PAIR | {"rejected": PAIR["chosen"]}], r"2: 'chosen' and 'rejected' are the same"),
        ("helpful", [PAIR | {"margin": "big"}], r"1: 'margin' must be a finite number or null, found 'big'"),
        ("safety", [LABELLED[0] | {"label": 2}], r"1: 'label' must be 1 \(safe\) or 0 \(unsafe\), found 2"),
        ("safety", [LABELLED[0] | {"label": 1}] * 2, r"every label is 1, from .*1 on; a safety model needs safe"),
        (
            "helpful",
            [PAIR | {"chosen": "<think>open"}],
            r"1 of 1 rows cannot be used with reads: summary \(1 with nothing",
        ),
        (
            "helpful",
            [PAIR | {"rejected": "<think>else</think>" + PAIR["chosen"].partition("</think>")[2]}],
            r"\(0 with nothing to read, 1 pairs that read the same\)",
        ),
        ("helpful", [], r"no rows"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_bad_rows_are_named(tmp_path: Path, kind: Any, rows: list[Any], message: str, suffix: str) -> None:
    if not rows:
        suffix = "jsonl"  # a Parquet file made of no rows has no columns either
    data = write_rows(tmp_path / f"data.{suffix}", rows)
    section = RewardModelSection(kind=kind, data=str(data), max_tokens=64)
    with pytest.raises(UserError, match=message) as error:
        Preparation(str(data), section, create_tokenizer(), 10_000, tmp_path / "out").poll(60)
    assert str(error.value).startswith(f"{data}")
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    whole = write_rows(tmp_path / "whole.parquet", preferences("helpful", 50)).read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"half.parquet: not a whole Parquet file .* run the stage that writes it again"
    ):
        list(read_records(tmp_path / "half.parquet", "helpful"))
    (tmp_path / "half.jsonl").write_text(json.dumps(PAIR) + '\n{"prompt": "a')
    with pytest.raises(UserError, match=r"half.jsonl:2: cannot be read: "):
        list(read_records(tmp_path / "half.jsonl", "helpful"))
    with pytest.raises(UserError, match=r"none.parquet: no such file"):
        list(read_records(tmp_path / "none.parquet", "helpful"))


def prepared(folder: Path, rows: list[dict[str, Any]], name: str, **section: Any) -> Store:
    data = write_rows(folder / f"{name}.jsonl", rows)
    settings = RewardModelSection(kind="helpful", data=str(data), **{"max_tokens": 64, **section})
    work = Preparation(str(data), settings, create_tokenizer(), 10_000, folder / name)
    while not work.poll(10):
        pass
    assert work.figures.rows == len(rows)
    return Store(folder / name, 2)


def test_a_margin_below_zero_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    rows = [PAIR, PAIR | {"margin": -0.5}]
    assert prepared(tmp_path, rows, "ignored").values.tolist() == [1.0, -0.5]
    with pytest.raises(
        UserError, match=r"asked.jsonl:2: 'margin' is -0.5, so the rejected response was the better one"
    ):
        prepared(tmp_path, rows, "asked", margin_scale=1.0)


def test_the_tokens_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [PAIR])
    section = RewardModelSection(kind="helpful", data=str(data), max_tokens=64)
    with pytest.raises(
        UserError, match=r"data.jsonl:1: token \d+ is outside the model's vocabulary of 50: the tokenizer"
    ):
        Preparation(str(data), section, create_tokenizer(), 50, tmp_path / "out").poll(60)


def test_held_out_rows_are_whole_prompts_and_not_trained_on(tmp_path: Path) -> None:
    rows = [row | {"prompt": f"prompt {number // 3}"} for number, row in enumerate(preferences("helpful", 90))]
    store = prepared(tmp_path, rows, "train")
    train, held_out = store.split(eval_size=500, seed=0)
    assert sorted([*train, *held_out]) == list(range(90))
    assert 1 <= len(held_out) <= 9
    assert not {rows[i]["prompt"] for i in train} & {rows[i]["prompt"] for i in held_out}
    again = store.split(eval_size=500, seed=0)
    assert again[1].tolist() == held_out.tolist()
    assert store.split(eval_size=500, seed=1)[1].tolist() != held_out.tolist()
    assert len(store.split(eval_size=3, seed=0)[1]) == 3
    one = prepared(tmp_path, [row | {"prompt": "same"} for row in rows[:6]], "one")
    with pytest.raises(UserError, match="every row has the same prompt"):
        one.split(eval_size=500, seed=0)


def test_held_out_rows_that_are_trained_on_are_refused(tmp_path: Path) -> None:
    rows = preferences("helpful", 20)
    train = prepared(tmp_path, rows, "train")
    fresh = [row | {"prompt": rows[0]["prompt"]} for row in preferences("helpful", 4, seed=1)[:2]]
    assert check_overlap(train, prepared(tmp_path, fresh, "fresh"), "fresh.jsonl") == 2
    mixed = prepared(tmp_path, [*preferences("helpful", 3, seed=2), rows[7]], "mixed")
    with pytest.raises(UserError, match=r"mixed.jsonl: 1 of 4 held-out rows are in the training data .* usable row 4"):
        check_overlap(train, mixed, "mixed.jsonl")


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [PAIR | {"chosen": "<answer>" + "total " * 200 + "</answer>"}, *preferences("helpful", 3, seed=1)]
    store = prepared(tmp_path, rows, "train", max_tokens=128)
    assert int(store.lengths.max()) == 128
    assert int(np.sort(store.lengths)[-2]) < 128
    data = RewardModelSection(kind="helpful", data=str(tmp_path / "train.jsonl"), max_tokens=128)
    work = Preparation(str(tmp_path / "train.jsonl"), data, create_tokenizer(), 10_000, tmp_path / "again")
    assert work.poll(60)
    assert work.figures.cut == 1


@pytest.mark.parametrize(
    ("name", "kind", "reads"), [("helpful", "helpful", "summary"), ("safety", "safety", "response")]
)
def test_presets_carry_the_published_figures(name: str, kind: str, reads: str) -> None:
    path = ROOT / "recipes" / "configs" / f"reward_model_{name}.yaml"
    config = load_reward_model_config(path)
    section = config.reward_model
    assert (section.kind, section.read_part) == (kind, reads)
    assert (section.batch_size, section.lr, section.epochs, section.max_tokens) == (256, 6e-6, 1.0, 8192)
    text = path.read_text()
    for line in ("batch_size: 256", "lr: 6.0e-6", "epochs: 1", "max_tokens: 8192"):
        assert any(line in row and "[R1]" in row for row in text.splitlines()), line
    assert load(RewardModelConfig, path, ["reward_model.lr=1e-5"]).reward_model.lr == 1e-5


def test_margins_are_for_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="margin_scale is for pairs"):
        RewardModelSection(kind="safety", data="x", margin_scale=1.0)


def test_models_that_cannot_become_reward_models_are_refused(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 40))
    with pytest.raises(UserError, match=r"no tokenizer that can be loaded|no configuration"):
        run_job(tmp_path / "run", make_job(tmp_path / "none", "helpful", data))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in base.iterdir():
        (broken / file.name).write_bytes(b"half" if file.name.endswith(".safetensors") else file.read_bytes())
    with pytest.raises(UserError, match="cannot be made a reward model"):
        run_job(tmp_path / "run", make_job(broken, "helpful", data))


def test_a_prompt_fed_once_gives_the_scores_and_gradients_of_one_fed_twice(base: Path) -> None:
    from common.config import TrainingSection
    from learner.ranks import Ranks
    from learner.reward_model.model import load_classifier

    learner = TrainingSection(device="cpu", dtype="float32", num_threads=1)
    rng = np.random.default_rng(0)

    def sequence(*parts: int) -> Any:
        return np.concatenate([np.random.default_rng(part).integers(3, 200, 3 + part) for part in parts])

    sequences = [sequence(9, 1), sequence(9, 4), sequence(2, 30), sequence(5), sequence(6), sequence(6, 2)]
    weights = torch.from_numpy(rng.normal(size=6)).float()
    with Ranks(learner) as ranks:
        classifier = load_classifier(base, learner, ranks, pad=1)
        with torch.no_grad():
            classifier.module.score.weight.to_local().normal_()
        found = []
        for share in (False, True):
            scores = classifier.scores(sequences, ranks.device, share=share)
            (scores * weights).sum().backward()
            gradients = {n: p.grad.to_local().clone() for n, p in classifier.module.named_parameters()}
            classifier.module.zero_grad()
            found.append((scores.detach(), gradients))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-4, msg=lambda t, n=name: f"{n}: {t}")
