"""Who gets which cores and GPUs, and what is refused when there are too few."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from common.lifecycle import RunPaths
from launcher.machine import Machine, MachineLacks, inspect_machine, parse_cores, place
from launcher.processes import actor_spec, learner_spec, plan_processes
from tests.unit.launcher_inputs import make_config

TWO_CORES = Machine((0, 1), ())
CUDA = ("learner.device=cuda", "actor.device=cuda")


def test_two_cores_are_shared(tmp_path: Path) -> None:
    placement = place(make_config(tmp_path), TWO_CORES)
    assert placement.actor_cores == (frozenset({0}),)
    assert placement.learner_cores == frozenset({1})
    assert placement.learner_threads == 1


def test_explicit_cores_are_left_to_the_actor_and_kept_from_the_learner(tmp_path: Path) -> None:
    placement = place(make_config(tmp_path, "actor.cpu_threads=0-2", "learner.ranks=2"), Machine(tuple(range(8)), ()))
    assert placement.actor_cores == (None,)
    assert placement.learner_cores == frozenset(range(3, 8))
    assert placement.learner_threads == 2


def test_actors_share_their_half(tmp_path: Path) -> None:
    placement = place(make_config(tmp_path, "actor.replicas=2"), Machine(tuple(range(8)), ()))
    assert placement.actor_cores == (frozenset({0, 1}), frozenset({2, 3}))
    assert placement.learner_cores == frozenset({4, 5, 6, 7})


def test_one_core_is_everybodys(tmp_path: Path) -> None:
    assert place(make_config(tmp_path), Machine((0,), ())).learner_cores is None


def test_cores_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineLacks, match="core 2 is not available"):
        place(make_config(tmp_path, "actor.cpu_threads=0-3"), TWO_CORES)
    for text in ("a", "3-1", ""):
        with pytest.raises(UserError, match="expected cores such as"):
            parse_cores(text)


def test_gpus_where_there_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineLacks, match=r"learner\.device=cuda, actor\.device=cuda: no GPU is visible"):
        place(make_config(tmp_path, *CUDA), TWO_CORES)
    with pytest.raises(MachineLacks, match=r"^actor\.device=cuda: no GPU"):
        place(make_config(tmp_path, "actor.device=cuda"), TWO_CORES)


def test_an_empty_list_of_visible_devices_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert inspect_machine().gpus == ()


def test_learner_ranks_and_actors_get_cards_of_their_own(tmp_path: Path) -> None:
    machine = Machine((0, 1), ("4", "5", "6", "7"))
    config = make_config(tmp_path, *CUDA, "weights.backend=nccl", "learner.ranks=2", "actor.replicas=2")
    placement = place(config, machine)
    assert (placement.learner_gpus, placement.actor_gpus) == (("4", "5"), ("6", "7"))
    paths = RunPaths(tmp_path)
    assert learner_spec(config, paths, placement).environment["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert actor_spec(config, paths, placement, 1).environment["CUDA_VISIBLE_DEVICES"] == "7"
    with pytest.raises(MachineLacks, match=r"needs 2 GPU\(s\) for the learner and 3 for actors"):
        place(config.model_copy(update={"actor": config.actor.model_copy(update={"replicas": 3})}), machine)
    with pytest.raises(MachineLacks, match=r"learner\.ranks=9"):
        place(config.model_copy(update={"learner": config.learner.model_copy(update={"ranks": 9})}), machine)


def test_ipc_puts_both_sides_on_the_same_card(tmp_path: Path) -> None:
    config = make_config(tmp_path, *CUDA, "weights.backend=ipc")
    placement = place(config, Machine((0, 1), ("0", "1")))
    assert placement.learner_gpus == placement.actor_gpus == ("0",)


def test_processes_start_from_broker_to_learner(tmp_path: Path) -> None:
    config = make_config(tmp_path, "actor.replicas=2", "learner.ranks=2", "actor.max_restarts=7")
    specs = plan_processes(config, RunPaths(tmp_path), place(config, TWO_CORES))
    assert [spec.name for spec in specs] == ["broker", "evaluator-0", "actor-0", "actor-1", "learner"]
    assert [spec.max_restarts for spec in specs] == [0, 3, 7, 7, 0]
    assert "torch.distributed.run" in specs[-1].command
    assert specs[-1].command[-4:] == ("--run-dir", str(tmp_path), "--name", "learner")
    assert all(spec.environment["PYTHONSAFEPATH"] == "1" for spec in specs)
