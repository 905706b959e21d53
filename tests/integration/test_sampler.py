"""The sampler with real processes: two models through one engine, against transformers; refusals; a lost problem."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.errors import RunFailure, UserError
from common.lifecycle import StopFlag
from common.messages import Sampling
from launcher.sampling import Sampler, SampleRequest
from recipes.model_files import PromptTokenizer
from recipes.tiny_model import create_tiny_model

# Importing torch's distributed code warns of its own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.timeout(400),
]
PROMPTS = ("12 + 30 = ", "What is 7 - 5?", "3 * 4 + 1 is ")
GREEDY = Sampling(max_tokens=12, temperature=0.0)
CONTEXT = 96


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [create_tiny_model(folder / str(seed), seed=seed, num_layers=2) for seed in (0, 1)]


def config(model: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": str(model),
            "data": {"train": "unused"},
            "actor": {
                "device": "cpu",
                "dtype": "float32",
                "max_model_len": CONTEXT,
                "kv_cache_gib": 0.125,
                "cpu_threads": str(max(os.sched_getaffinity(0))),
                "enforce_eager": True,
            },
            "broker": {"generate_lease_s": 20.0},
            "evaluator": {"code": "off"},
        }
    )


@pytest.fixture(scope="module")
def sampler(models: list[Path]) -> Iterator[Sampler]:
    with Sampler(config(models[0]), stop=StopFlag()) as sampler:
        yield sampler


def record(model: Path, index: int, prompt: str) -> dict[str, Any]:
    ids = PromptTokenizer(model).encode([prompt])[0]
    spec = {"kind": "math", "answer": "42", "columns": {}}
    return {"id": f"p/{index}", "prompt": prompt, "prompt_ids": ids, "spec": spec}


def greedy(sampler: Sampler, model: Path) -> list[str]:
    records = [record(model, index, prompt) for index, prompt in enumerate(PROMPTS)]
    requests = [SampleRequest(r["id"], r, 1, GREEDY) for r in records]
    texts = {task.key: task.completions[0].text for task in sampler.sample(requests)}
    return [texts[r["id"]] for r in records]


def reference(model: Path) -> list[str]:
    """Greedy continuations by transformers in float32, cut at the end of the sequence as an actor's texts are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    texts = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            for _ in range(GREEDY.max_tokens):
                ids = torch.cat([ids, network(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
                if ids[0, -1] == tokenizer.eos_token_id:
                    break
        new = ids[0, len(tokenizer(prompt).input_ids) :]
        texts.append(tokenizer.decode(new[new != tokenizer.eos_token_id], skip_special_tokens=True))
    return texts


def test_loaded_weights_are_what_is_sampled(sampler: Sampler, models: list[Path]) -> None:
    expected = [reference(model) for model in models]
    assert expected[0] != expected[1], "the two models differ"
    for index in (0, 1, 0):
        sampler.load(models[index])
        assert greedy(sampler, models[index]) == expected[index]


def test_many_samples_of_one_problem_are_split_and_joined(sampler: Sampler, models: list[Path]) -> None:
    sampling = Sampling(max_tokens=4, temperature=1.0, seed=3)
    problem = record(models[0], 0, PROMPTS[0])
    once = list(sampler.sample([SampleRequest("a", problem, 70, sampling), SampleRequest("b", problem, 2, GREEDY)]))
    found = {task.key: task.completions for task in once}
    assert {key: len(completions) for key, completions in found.items()} == {"a": 70, "b": 2}
    texts = [completion.text for completion in found["a"]]
    assert len(set(texts[:64])) > 32
    assert texts[64:] != texts[:6], "the second part is not the first once more"
    assert found["b"][0] == found["b"][1] or found["b"][0].text == found["b"][1].text
    for completion in found["a"]:
        assert 1 <= completion.num_tokens <= 4
        assert completion.clipped == (completion.num_tokens == 4) or completion.num_tokens == 4
        assert completion.verdict.outcome == "fail"
        assert set(completion.verdict.rewards) == {"accuracy", "format"}


def test_a_caller_that_stops_early_leaves_nothing_in_the_way(sampler: Sampler, models: list[Path]) -> None:
    problem = record(models[0], 0, PROMPTS[0])
    requests = (SampleRequest(str(n), problem, 2, GREEDY) for n in range(40))
    assert next(iter(sampler.sample(requests))).completions
    assert [task.key for task in sampler.sample([SampleRequest("last", problem, 1, GREEDY)])] == ["last"]


def test_models_that_do_not_fit_are_refused(sampler: Sampler, models: list[Path], tmp_path: Path) -> None:
    deeper = create_tiny_model(tmp_path / "deeper", num_layers=3)
    with pytest.raises(UserError, match=r"deeper does not fit the engine of .*num_hidden_layers is 3 there and 2 here"):
        sampler.load(deeper)
    sampler.load(models[1])
    assert greedy(sampler, models[1]) == reference(models[1]), "the refusal changed nothing"


def test_a_problem_that_cannot_be_sampled_is_named(sampler: Sampler, models: list[Path]) -> None:
    long = record(models[0], 7, "1 + " * CONTEXT)
    good = record(models[0], 8, PROMPTS[0])
    with pytest.raises(RunFailure, match=r"problem p/7 could not be sampled and graded: .*context is 96"):
        list(sampler.sample([SampleRequest("good", good, 1, GREEDY), SampleRequest("long", long, 1, GREEDY)]))
    assert [task.key for task in sampler.sample([SampleRequest("good", good, 1, GREEDY)])] == ["good"]


def test_a_stop_ends_it(models: list[Path], sampler: Sampler) -> None:
    sampler._stop.set()
    with pytest.raises(KeyboardInterrupt):
        list(sampler.sample([SampleRequest("a", record(models[0], 0, PROMPTS[0]), 1, GREEDY)]))
