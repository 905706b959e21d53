"""Every mistake in a configuration is one line that names where it is, the key, the value and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.config import dump_config, load_config
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = "model: tiny\ndata: {train: problems.jsonl}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, list(overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_overrides_win_and_numbers_in_scientific_notation_are_numbers(config_file: Path) -> None:
    config = load_config(config_file, ["learner.lr=1e-6", "rollout.group_size=4", "run.name=x"])
    assert (config.learner.lr, config.rollout.group_size, config.run.name) == (1e-6, 4, "x")


@pytest.mark.parametrize("text", ["0", "'0'", '"0"'])
def test_numbers_become_text_where_text_is_wanted(config_file: Path, text: str) -> None:
    assert load_config(config_file, [f"actor.cpu_threads={text}"]).actor.cpu_threads == "0"


def test_a_dumped_configuration_reads_back_equal(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, ["data.train={reasoning_gym: chain_sum, params: {min_terms: 3}}"])
    dump_config(config, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == config


def test_unknown_key_suggests_the_known_one(config_file: Path) -> None:
    message = refusal(config_file, "learner.max_stalenes=1")
    assert "override 'learner.max_stalenes=1'" in message
    assert "did you mean learner.max_staleness?" in message


def test_a_mistake_in_the_file_names_the_file(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "lerner: {lr: 1}\n")
    assert str(config_file) in refusal(config_file)
    assert "did you mean learner?" in refusal(config_file)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rollout.group_size=1", "rollout.group_size = 1"),
        ("learner.lr=fast", "learner.lr = 'fast'"),
        ("learner.lr=.nan", "learner.lr = nan"),
        ("learner.max_staleness=-1", "learner.max_staleness = -1"),
        ("broker.ports.actor=70000", "broker.ports.actor = 70000"),
        ("rollout.top_p=0.9", "biases the importance ratio"),
        ("learner.lr={a", "not valid YAML"),
        ("rollout.max_tokens_schedule=[[5, 10], [5, 20]]", "steps must rise, got [5, 5]"),
        ("rollout.max_tokens_schedule=[[-1, 10]]", "rollout.max_tokens_schedule.0.0 = -1"),
        ("data.general={source: x.jsonl, share: 0}", "data.general.share = 0"),
        ("data.general={source: x.jsonl, last_step: 3}", "did you mean data.general.last_steps?"),
        ("learner.loss.importance=tis_token", "set proximal: recompute"),
        ("learner.loss.dual_clip=1", "learner.loss.dual_clip = 1"),
        ("nonsense", "expected key=value"),
        ("=3", "expected key=value"),
    ],
)
def test_wrong_values_are_named(config_file: Path, override: str, says: str) -> None:
    assert says in refusal(config_file, override)


def test_gpu_weights_on_a_cpu_are_refused(config_file: Path) -> None:
    assert "use weights.backend=gloo" in refusal(config_file, "weights.backend=nccl", "actor.device=cpu")


def test_missing_key_says_how_to_set_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: {train: x.jsonl}\n")
    assert "model is missing; set it in the file or as model=VALUE" in refusal(path)


@pytest.mark.parametrize("text", ["model: [unclosed", "- a list", "\x00"])
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert str(path) in refusal(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such configuration file" in refusal(tmp_path / "none.yaml")


OF_OTHER_COMMANDS = {"stages", "sft", "reward_model"}
RUNS = [
    path
    for path in sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
    if OF_OTHER_COMMANDS.isdisjoint(yaml.safe_load(path.read_text()))
]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    load_config(path)
