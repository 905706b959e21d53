"""Which role reads which key: the table that `zeroq submit` goes by, against the code that reads the configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.config import RunConfig, load_config
from launcher.k8s.names import WORKLOADS
from launcher.k8s.rollout import EVERYBODY, KEPT, READERS, changed_keys, flatten, restarts

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipes" / "configs" / "k8s.yaml"
FOLDERS = {
    "broker": ("broker",),
    "actor": ("actor",),
    "evaluator": ("evaluator",),
    "learner": ("learner",),
    "autoscaler": ("launcher/autoscaler",),
}
SUPERVISED = ("reward_model", "sft.py", "supervised")  # jobs of their own, with configurations of their own


def changed(*overrides: str) -> dict[str, list[str]]:
    return restarts(changed_keys(load_config(CONFIG), load_config(CONFIG, list(overrides))))


@pytest.mark.parametrize("role", FOLDERS)
def test_the_table_has_everybody_who_reads_a_key(role: str) -> None:
    """`config.SECTION` and `config.SECTION.KEY` in a role's code: changing them must restart that role."""
    fields = RunConfig.model_fields
    missing = []
    for folder in FOLDERS[role]:
        for file in (ROOT / folder).rglob("*.py"):
            if any(part in str(file.relative_to(ROOT)) for part in SUPERVISED):
                continue
            for section, key in re.findall(r"\bconfig\.([a-z_]+)(?:\.([a-z_]+))?", file.read_text(encoding="utf-8")):
                if section not in fields:
                    continue
                readers = {*READERS[section], *READERS.get(f"{section}.{key}", ())}
                if role not in readers and not (key == "" and any(k.startswith(f"{section}.") for k in READERS)):
                    missing.append(f"{file.relative_to(ROOT)}: {section}.{key}")
    assert not missing


def test_every_section_has_its_readers_and_every_role_its_words() -> None:
    assert set(RunConfig.model_fields) <= set(READERS)
    assert set(KEPT) == set(EVERYBODY) == {workload.role for workload in WORKLOADS}
    known = flatten(RunConfig.model_validate({"model": "m", "data": {"train": "x"}}).model_dump(mode="json"))
    for key in READERS:
        assert any(k == key or k.startswith(f"{key}.") for k in known), key


def test_only_readers_restart() -> None:
    assert changed() == {}
    assert changed("learner.lr=1e-9") == {"learner": ["learner.lr"]}
    assert changed("autoscaler.every_s=9") == {"autoscaler": ["autoscaler.every_s"]}
    assert set(changed("evaluator.max_concurrent_groups=9")) == {"evaluator", "evaluator-models", "autoscaler"}
    assert set(changed("security.mode=off")) == set(EVERYBODY)
    assert changed("hub.push_to=a/b") == {}


def test_what_bounds_the_brokers_credit_restarts_it() -> None:
    for key in ("learner.max_staleness=3", "learner.groups_per_step=8", "learner.steps_per_publish=2"):
        assert {"broker", "learner", "autoscaler"} == set(changed(key))


def test_order_is_broker_learner_then_those_who_work_for_them() -> None:
    assert list(changed("security.mode=off")) == list(EVERYBODY)
