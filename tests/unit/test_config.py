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
        ("lerner.lr=1", "override 'lerner.lr=1': unknown key lerner.lr; did you mean learner.lr?"),
        ("learner.los.clip_low=1", "did you mean learner.loss.clip_low?"),
        ("reward.components=[{name: a, kindd: format}]", "did you mean reward.components.0.kind?"),
        ("nonsense.key=1", "override 'nonsense.key=1': unknown key nonsense.key; known keys here: actor, "),
    ],
)
def test_a_misspelt_override_names_itself_and_the_nearest_key(config_file: Path, override: str, says: str) -> None:
    assert says in refusal(config_file, override)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nseed: 2\n", ":4: not valid YAML: key 'seed' is there twice"),
        ("learner:\n  lr: 1e-6\n  warmup_steps: 1\n  lr: 1e-5\n", ":6: not valid YAML: key 'lr' is there twice"),
        ("run: " + "[" * 3000, "not valid YAML: nested too deeply"),
        ("seed: !!python/object/apply:os.system ['true']\n", ":3: not valid YAML: could not determine a constructor"),
        ("seed: 4294967296\n", "less than 4294967296"),
    ],
)
def test_yaml_is_plain_data_with_each_key_once(config_file: Path, text: str, says: str) -> None:
    config_file.write_text(MINIMAL + text)
    assert says in refusal(config_file)


def test_merge_keys_may_be_overridden(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "actor: &a {replicas: 2}\nevaluator: {<<: *a, replicas: 3}\n")
    assert load_config(config_file).evaluator.replicas == 3


@pytest.mark.parametrize(("name", "command"), [("r1_cpu", "pipeline"), ("sft_r1", "sft")])
def test_a_file_of_another_command_is_known_by_its_sections(name: str, command: str) -> None:
    assert f"this is a configuration of: zeroq {command} " in refusal(ROOT / "recipes" / "configs" / f"{name}.yaml")


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
        ("learner.collective_timeout_s=200", "let a publish take 200 s, while the learner's other ranks wait at most"),
        ("weights.transfer_timeout_s=200", "raise that above 620, or lower weights.transfer_timeout_s"),
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
