"""`write_world`: whole, repeatable, and nothing that is evaluated is trained on."""

import json

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("reasoning_gym")

from common.errors import UserError
from recipes.datasets import load_examples
from recipes.small_world.world import write_world
from recipes.stages.corpus import HelpfulPair, SafetyLabel, read_corpus, read_rows

FILES = {
    *(f"problems/{name}" for name in ("train", "eval", "eval_sums", "eval_legs", "eval_code")),
    *(f"problems/general_{name}" for name in ("train", "eval")),
    *(f"corpus/{name}" for name in ("base", "cold_start_user", "general")),
    *(f"preferences/{name}" for name in ("helpful", "safety", "helpful_test", "safety_test")),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), seed=3, scale=0.05)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def entry(row):
    """What makes a problem the same one, whatever its language."""
    return json.dumps([row["family"], row["meta"].get("metadata", {}).get("expression") or row["meta"]], sort_keys=True)


def test_every_file_is_there_and_reads(world):
    assert set(world) == FILES
    for name, path in world.items():
        if name.startswith("problems/"):
            assert load_examples(str(path), need_answer="general" not in name)
        elif name.startswith("corpus/"):
            assert read_corpus(path)
        else:
            assert read_rows(path, HelpfulPair if "helpful" in name else SafetyLabel)


def test_the_same_seed_writes_the_same_bytes(world, tmp_path):
    again = write_world(tmp_path / "again", seed=3, scale=0.05)
    for name, path in world.items():
        assert path.read_bytes() == again[name].read_bytes(), name
    other = write_world(tmp_path / "other", seed=4, scale=0.05)
    assert other["problems/train"].read_bytes() != world["problems/train"].read_bytes()


def test_nothing_evaluated_is_trained_on(world):
    evaluated = {row["prompt"] for name in ("eval", "general_eval") for row in lines(world[f"problems/{name}"])}
    assert evaluated
    trained = {row["prompt"] for name in ("train", "general_train") for row in lines(world[f"problems/{name}"])}
    assert not evaluated & trained
    for name in ("base", "cold_start_user", "general"):
        assert not evaluated & {row.problem for row in read_corpus(world[f"corpus/{name}"])}, name
    for name, row_type in (("helpful", HelpfulPair), ("safety", SafetyLabel)):
        train = {row.prompt for row in read_rows(world[f"preferences/{name}"], row_type)}
        assert not train & {row.prompt for row in read_rows(world[f"preferences/{name}_test"], row_type)}, name
        assert not [prompt for prompt in train if prompt.split(">", 1)[1].rsplit("<", 1)[0] in evaluated], name


def test_no_entry_is_evaluated_in_one_language_and_trained_on_in_the_other(world):
    evaluated = {entry(row) for row in lines(world["problems/eval"])}
    assert not evaluated & {entry(row) for row in lines(world["problems/train"])}


def test_the_base_corpus_shares_no_problem_with_training(world):
    trained = {row["prompt"] for row in lines(world["problems/train"])}
    base = {row.problem for row in read_corpus(world["corpus/base"]) if row.kind == "reasoning"}
    assert not trained & base


def test_eval_is_all_families(world):
    whole = [row["id"] for row in lines(world["problems/eval"])]
    parts = [row["id"] for family in ("sums", "legs", "code") for row in lines(world[f"problems/eval_{family}"])]
    assert whole == parts


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5])
def test_scale_out_of_range(tmp_path, scale):
    with pytest.raises(UserError, match="scale must be above 0"):
        write_world(tmp_path, seed=0, scale=scale)
