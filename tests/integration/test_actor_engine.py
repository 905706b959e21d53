"""The engine with real vLLM on a CPU: a tiny random model, log-probabilities against transformers in float32."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from actor.engine import Engine, EngineDied, PromptRefused
from actor.group import GeneratedGroup, GenerationAborted
from actor.weights.loader import Loader
from common.config import RolloutSection, RunConfig
from common.messages import Sampling
from common.metrics import REGISTRY
from tests.integration.actor_model import EOS, VOCAB, make_model

# Importing vLLM and torch's distributed code warns of their own deprecations.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]

PROMPT = [5, 6, 7, 8, 9, 10]
LONG_PROMPT = [5, 6, 7, 8, 9, 10] * 6  # two whole blocks, which a group computes once, and a rest
T = TypeVar("T")


def make_config(model: Path, dtype: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": str(model),
            "data": {"train": "unused"},
            "learner": {"device": "cpu"},
            "actor": {
                "device": "cpu",
                "dtype": dtype,
                "max_model_len": 256,
                "max_num_seqs": 64,
                "kv_cache_gib": 0.125,
                "kv_block_tokens": 16,  # test_actor_process has the default
                "cpu_threads": str(max(os.sched_getaffinity(0))),
                "enforce_eager": True,
            },
        }
    )


class Rig:
    """An engine and the event loop it lives in."""

    count = 0

    def __init__(self, model: Path, dtype: str) -> None:
        self.model = model
        self.dtype = dtype
        self._runner = asyncio.Runner()
        self.engine = self.run(lambda: Engine.start(make_config(model, dtype), "actor-0"))

    def run(self, task: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def bounded() -> T:
            return await asyncio.wait_for(task(), 120)

        return self._runner.run(bounded())

    def warm_up(self) -> None:
        self.run(lambda: self.engine.warm_up(RolloutSection(group_size=4), num_groups=2))

    def group(self, size: int = 8, prompt: list[int] = PROMPT, **sampling: Any) -> GeneratedGroup:
        return self.run(lambda: self.sample(size, prompt, **sampling))

    async def sample(self, size: int, prompt: list[int] = PROMPT, **sampling: Any) -> GeneratedGroup:
        self.count += 1
        params = Sampling(**{"max_tokens": 40, **sampling})
        return await self.engine.generate_group(prompt, params, size, request_id=f"r{self.count}")

    def close(self) -> None:
        async def shutdown() -> None:
            self.engine.shutdown()

        self._runner.run(shutdown())
        self._runner.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_model(path)
    return path


@pytest.fixture(scope="module")
def rig(model: Path) -> Iterator[Rig]:
    rig = Rig(model, "float32")
    yield rig
    rig.close()


def rows(group: GeneratedGroup) -> list[slice]:
    ends = np.cumsum(group.num_tokens)
    return [slice(int(e) - n, int(e)) for e, n in zip(ends, group.num_tokens, strict=True)]


def reference_logprobs(model: Path, prompt: list[int], group: GeneratedGroup, temperature: float) -> Any:
    """log_softmax(logits / T) of the sampled tokens, float32, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    out = np.empty(len(group.token_ids), np.float32)
    with torch.no_grad():
        for row in rows(group):
            tokens = group.token_ids[row]
            ids = torch.tensor([prompt + tokens.tolist()])
            logits = reference(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
            chosen = torch.tensor(tokens, dtype=torch.int64)[:, None]
            out[row] = torch.log_softmax(logits, -1).gather(1, chosen)[:, 0].numpy()
    return out


def test_shapes_versions_and_texts(rig: Rig) -> None:
    group = rig.group(8)
    total = sum(group.num_tokens)
    assert group.token_ids.shape == group.logprobs.shape == group.versions.shape == (total,)
    assert len(group.num_tokens) == len(group.texts) == len(group.finish_reasons) == 8
    assert not group.versions.any(), "unlabelled weights are version 0"
    assert (group.logprobs <= 0).all()
    assert np.isfinite(group.logprobs).all()
    assert len({tuple(group.token_ids[row]) for row in rows(group)}) > 1, "rollouts differ"
    for row, text, reason in zip(rows(group), group.texts, group.finish_reasons, strict=True):
        ids = group.token_ids[row].tolist()
        content = ids[:-1] if reason == "stop" else ids
        assert text == "".join(f"t{i}" for i in content)
        assert len(ids) == 40 or reason == "stop"


@pytest.mark.parametrize(("prompt", "temperature"), [(PROMPT, 0.7), (PROMPT, 1.0), (LONG_PROMPT, 1.0)])
def test_logprobs_equal_transformers(rig: Rig, prompt: list[int], temperature: float) -> None:
    group = rig.group(8, prompt, temperature=temperature)
    difference = np.abs(group.logprobs - reference_logprobs(rig.model, prompt, group, temperature))
    print(f"float32, T={temperature}: max {difference.max():.2e}, mean {difference.mean():.2e}")
    assert difference.max() <= 1e-3
    other = np.abs(group.logprobs - reference_logprobs(rig.model, prompt, group, 2 * temperature))
    assert other.max() > 0.1, "the model tells temperatures apart"


def test_no_request_starts_from_prefixes_that_other_weights_computed(rig: Rig, tmp_path: Path) -> None:
    """Whatever version they have: a learner that begins anew gives other weights the versions that there have been."""
    make_model(tmp_path / "other", seed=1)

    def load(path: Path) -> None:
        rig.run(lambda: rig.engine.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(path)}))
        rig.engine.weights_change()

    try:
        for path in (rig.model, tmp_path / "other"):
            load(path)
            group = rig.group(prompt=LONG_PROMPT)
            want = reference_logprobs(path, LONG_PROMPT, group, 1.0)
            assert np.abs(group.logprobs - want).max() <= 1e-3
    finally:
        load(rig.model)


def test_a_request_made_during_a_load_starts_from_no_old_prefix(rig: Rig, tmp_path: Path) -> None:
    """vLLM takes it in while it is paused, and looks for cached prefixes when it goes on, with the new weights."""
    make_model(tmp_path / "other", seed=1)
    llm = rig.engine.llm

    async def load(path: Path) -> GeneratedGroup:
        await rig.sample(8, LONG_PROMPT)
        await Loader(llm, 60, rig.engine.weights_change).pause()
        sampling = asyncio.create_task(rig.sample(8, LONG_PROMPT))
        while rig.engine.num_running < 8:
            await asyncio.sleep(0.01)
        await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(path)})
        await llm.resume_generation()
        return await sampling

    try:
        group = rig.run(lambda: load(tmp_path / "other"))
        want = reference_logprobs(tmp_path / "other", LONG_PROMPT, group, 1.0)
        assert np.abs(group.logprobs - want).max() <= 1e-3
    finally:
        rig.run(lambda: load(rig.model))


def test_a_warm_up_is_forgotten(rig: Rig) -> None:
    rig.warm_up()
    assert rig.engine.tokens_generated == 0
    assert len(rig.group(size=2).num_tokens) == 2


def test_end_of_sequence_is_included(rig: Rig) -> None:
    for _ in range(20):
        group = rig.group(64, max_tokens=200, temperature=2.0)
        stopped = [row for row, reason in zip(rows(group), group.finish_reasons, strict=True) if reason == "stop"]
        if stopped:
            break
    assert stopped, "no rollout ended by itself"
    assert all(group.token_ids[row][-1] == EOS for row in stopped)
    assert "<eos>" not in "".join(group.texts)


def test_greedy(rig: Rig) -> None:
    one, three = rig.group(1, temperature=0.0), rig.group(3, temperature=0.0)
    assert three.token_ids.tolist() == one.token_ids.tolist() * 3
    assert three.num_tokens == one.num_tokens * 3
    difference = np.abs(one.logprobs - reference_logprobs(rig.model, PROMPT, one, 1.0))
    assert difference.max() <= 1e-3


def test_a_seed_repeats_the_group(rig: Rig) -> None:
    first, second, third = rig.group(4, seed=7), rig.group(4, seed=7), rig.group(4, seed=8000)
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert first.token_ids.tolist() != third.token_ids.tolist()
    assert len({tuple(first.token_ids[row]) for row in rows(first)}) == 4, "children differ"


def test_versions_follow_the_labels_inside_a_rollout(rig: Rig) -> None:
    """Labels change while groups run; every token carries the one that was current, n > 1 and FINAL_ONLY or not."""

    async def scene() -> list[GeneratedGroup]:
        tasks = [asyncio.create_task(rig.sample(4, max_tokens=200, temperature=0.9)) for _ in range(3)]
        tasks.append(asyncio.create_task(rig.sample(1, max_tokens=200, temperature=0.9)))
        for version in (1, 2):
            while rig.engine.tokens_generated - base < version * 300 and not all(t.done() for t in tasks):
                await asyncio.sleep(0.005)
            await rig.engine.llm.pause_generation(mode="keep", clear_cache=False)
            counted = -1
            while counted != (counted := rig.engine.tokens_generated):  # the engine's last outputs may be on their way
                await asyncio.sleep(0.2)
            seen.append(dict(rig.engine._running) | {r: rig.engine._own_tokens(r) for r in list(rig.engine._running)})
            await rig.engine.llm.update_weight_version(str(version))
            await rig.engine.llm.resume_generation()
        return await asyncio.gather(*tasks)

    seen: list[dict[str, int]] = []
    request_ids = [f"r{rig.count + 1 + n}" for n in range(4)]
    base = rig.engine.tokens_generated
    groups = rig.run(scene)
    rig.run(lambda: rig.engine.llm.update_weight_version("0"))
    for group in groups:
        for row in rows(group):
            assert (np.diff(group.versions[row]) >= 0).all()
    for request_id, group in zip(request_ids, groups, strict=True):
        if request_id in seen[0]:  # a short one may have ended by itself
            assert (group.versions == 0).sum() == seen[0][request_id], "tokens before the first label"
        if request_id in seen[1]:
            assert (group.versions <= 1).sum() == seen[1][request_id], "tokens before the second label"
    assert {0, 1, 2} <= set(np.concatenate([g.versions for g in groups]).tolist())


def test_progress_grows(rig: Rig) -> None:
    async def scene() -> list[int]:
        task = asyncio.create_task(rig.sample(8, max_tokens=200))
        await asyncio.sleep(0)
        request_id = f"r{rig.count}"
        progress = [rig.engine.progress(request_id)]
        while not task.done():
            now = rig.engine.progress(request_id)
            if now > progress[-1]:
                progress.append(now)
            await asyncio.sleep(0.002)
        assert rig.engine.progress(request_id) == 0, "unknown by now"
        assert progress[-1] <= sum((await task).num_tokens)
        return progress

    before = rig.engine.tokens_generated
    progress = rig.run(scene)
    assert progress[0] == 0
    assert len(progress) > 10
    assert rig.engine.tokens_generated > before


def test_progress_of_a_waiting_group(rig: Rig) -> None:
    """64 rollouts fill the engine; a group behind them has no token yet, but its lease must be renewable."""

    async def scene() -> bool:
        first = asyncio.create_task(rig.sample(64, max_tokens=200))
        await asyncio.sleep(0)
        second = asyncio.create_task(rig.sample(2, max_tokens=4))
        await asyncio.sleep(0)
        waiting = f"r{rig.count}"
        grew_while_waiting = False
        while not first.done():
            if rig.engine._own_tokens(waiting) == 0 and rig.engine.progress(waiting) > 0:
                grew_while_waiting = True
            await asyncio.sleep(0.002)
        await second
        return grew_while_waiting

    assert rig.run(scene)


@pytest.mark.parametrize("how", ["abort", "cancel"])
def test_abort(rig: Rig, how: str) -> None:
    async def scene() -> None:
        task = asyncio.create_task(rig.sample(8, max_tokens=240))
        await asyncio.sleep(0)
        request_id = f"r{rig.count}"
        while rig.engine.progress(request_id) < 16:
            await asyncio.sleep(0.001)
        before = rig.engine.tokens_generated
        if how == "abort":
            await rig.engine.abort(request_id)
            with pytest.raises(GenerationAborted, match="abort"):
                await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert rig.engine.num_running == 0
        assert rig.engine.tokens_generated >= before - 8

    rig.run(scene)
    assert len(rig.group(2).num_tokens) == 2, "the engine goes on"


def test_refused_prompts(rig: Rig) -> None:
    with pytest.raises(PromptRefused, match="context is 256"):
        rig.group(2, prompt=[5] * 256)
    with pytest.raises(PromptRefused, match="refuses"):
        rig.group(2, prompt=[5, VOCAB + 1000])
    full = rig.group(2, prompt=[5] * 255)
    assert full.num_tokens == [1, 1], "one token fits"


def test_bfloat16_is_close(model: Path) -> None:
    """Then the engine's process is killed: its death is reported, to the group in hand and to whoever watches."""
    rig = Rig(model, "bfloat16")
    try:
        group = rig.group(8)
        difference = np.abs(group.logprobs - reference_logprobs(model, PROMPT, group, 1.0))
        print(f"bfloat16: max {difference.max():.2e}, mean {difference.mean():.2e}")
        assert difference.mean() <= 0.1

        async def scene() -> None:
            task = asyncio.create_task(rig.sample(8, max_tokens=240))
            while rig.engine.tokens_generated < 400:
                await asyncio.sleep(0.001)
            for process in rig.engine.llm.engine_core.resources.engine_manager.processes:
                process.kill()
            with pytest.raises(EngineDied):
                await task
            with pytest.raises(EngineDied):
                await rig.engine.watch()
            with pytest.raises(EngineDied):
                await rig.sample(1)

        rig.run(scene)
    finally:
        rig.close()


def test_the_engine_reports_its_scheduler_and_the_front_end_keeps_no_statistics(rig: Rig) -> None:
    def figure(name: str) -> float:
        return REGISTRY.get_sample_value(f"zeroq_actor_engine_{name}") or 0.0

    seen = []

    async def sample() -> None:
        before = figure("prefix_cache_queries_total")
        sampling = Sampling(max_tokens=100, temperature=1.0)
        group = asyncio.create_task(rig.engine.generate_group(PROMPT, sampling, 4, salt="stats", request_id="stats"))
        while not group.done():
            seen.append((figure("rollouts_running"), figure("kv_cache_usage_ratio")))
            await asyncio.sleep(0.005)
        await group
        assert figure("prefix_cache_queries_total") - before >= len(PROMPT)

    rig.run(sample)
    assert figure("rollouts_running") == figure("kv_cache_usage_ratio") == 0
    assert max(running for running, _ in seen) == 4
    assert 0 < max(usage for _, usage in seen) <= 1
    assert rig.engine.llm.logger_manager is None
    assert not rig.engine.llm.log_stats
