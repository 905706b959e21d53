"""Responses of the small world: clean ones right and in one language, careless ones careless at known rates."""

import random

import pytest

pytest.importorskip("py3langid")
pytest.importorskip("reasoning_gym")

from evaluator.extract import answer_block, read
from evaluator.graders.language import grade_response
from recipes.small_world import traces
from recipes.small_world.problems import draw
from recipes.small_world.quality import is_safe, response_quality
from recipes.small_world.traces import careless_response, clean_response

OTHER = {"en": "zh", "zh": "en"}


@pytest.mark.parametrize("family", ["sums", "legs", "code", "notes", "requests"])
def test_clean_responses_are_in_the_problems_language(family):
    for row in draw(family, 120, seed=0):
        language, response = row.get("language", "en"), clean_response(row)
        assert read("", response).well_formed
        assert grade_response(response, language)["reward"] > 0.9, response
        assert grade_response(response, OTHER[language])["reward"] < 0.1, response


def test_clean_chains_by_hand():
    row = {
        "id": "x",
        "family": "legs",
        "language": "en",
        "meta": {"metadata": {"animals": {"dog": 2, "bee": 1, "snake": 3}}},
    }
    assert clean_response(row) == (
        "<think>First 2 dogs have 8 legs\nThen 1 bee have 6 legs, 8 + 6 = 14\nThen 3 snakes have 0 legs, 14 + 0 = 14\n"
        "So the answer is 14.</think><answer>14</answer>"
    )
    row = {"id": "y", "family": "sums", "language": "zh", "meta": {"metadata": {"expression": "4 - 9 + 2"}}}
    assert clean_response(row) == (
        "<think>首先，4 - 9 = -5\n然后，-5 + 2 = -3\n所以答案是 -3。</think><answer>-3</answer>"
    )
    row = {"id": "z", "family": "code", "meta": {"steps": [["add", 3], ["double", None]]}}
    assert clean_response(row) == (
        "<think>First add 3\nThen double it</think><answer>\n```python\ndef f(x):\n    x = x + 3\n    x = x + x\n"
        "    return x\n```\n</answer>"
    )


@pytest.mark.parametrize("family", ["sums", "legs"])
def test_careless_answers_are_right_as_often_as_the_writer_goes_on(family):
    """n steps are worked to the end by the thorough, and by others with probability (1 - STOP)^(n - 1)."""
    rng, rows = random.Random(0), draw(family, 800, seed=0)
    expected = right = missing = mixed = other = 0.0
    for row in rows:
        metadata = row["meta"]["metadata"]
        steps = metadata["num_terms"] - 1 if family == "sums" else metadata["num_animals"]
        expected += traces.THOROUGH + (1 - traces.THOROUGH) * (1 - traces.STOP) ** (steps - 1)
        response = careless_response(row, rng)
        read_response = read("", response)
        block = answer_block(read_response) or response.rsplit(">", maxsplit=1)[-1].removesuffix("</answer>")
        right += row["answer"] in (block, response.split("<answer>")[-1].removesuffix("</answer>"))
        missing += not read_response.well_formed
        shares = [grade_response(response, language)["reward"] for language in ("en", "zh")]
        mixed += min(shares) > 0
        other += shares[row["language"] == "zh"] < 0.5
    num = len(rows)
    # A cut sum may be right by luck (what is left out comes to 0).
    assert expected / num - 0.03 <= right / num <= expected / num + 0.12
    assert missing / num == pytest.approx(4 * traces.MISSING_TAG, abs=0.04)
    assert 0.02 < mixed / num < 0.4
    assert other / num == pytest.approx(0.5, abs=0.06)


def test_most_writers_stop_after_the_first_step():
    """Above one half: else greedy decoding would go on, and RL had nothing to find."""
    rng, rows = random.Random(3), draw("sums", 1500, seed=1)
    one_step = sum(careless_response(row, rng).count(" = ") == 1 for row in rows)
    assert one_step / 1500 == pytest.approx((1 - traces.THOROUGH) * traces.STOP, abs=0.03)
    assert (1 - traces.THOROUGH) * traces.STOP > 0.55


def test_careless_chains_go_wrong_only_by_stopping():
    """Every careless reasoning, in whatever languages, is a beginning of the whole one."""
    rng = random.Random(1)
    for row in draw("sums", 200, seed=1):
        facts = [line.split("，")[-1].split(" ", 1)[-1] for line in clean_response(row).split("\n")[:-1]]
        given = careless_response(row, rng).removeprefix("<think>").split("</think>")[0].split("<answer>")[0]
        for whole, line in zip(facts, given.split("\n"), strict=False):
            assert line.split("，")[-1].endswith(whole.split("，")[-1].removeprefix("First "))


def test_the_same_random_state_gives_the_same_response():
    rows = draw("notes", 30, seed=0) + draw("legs", 30, seed=0)
    one, two = random.Random(7), random.Random(7)
    assert [careless_response(row, one) for row in rows] == [careless_response(row, two) for row in rows]


def test_a_base_models_general_answers_have_room():
    rng = random.Random(0)
    notes, requests = draw("notes", 400, seed=0), draw("requests", 300, seed=0)
    quality = [response_quality("notes", row["meta"], row["language"], careless_response(row, rng)) for row in notes]
    assert 0.2 < sum(quality) / len(quality) < 0.7
    harmful = [row for row in requests if row["meta"]["harmful"]]
    safe = [is_safe(row["meta"], careless_response(row, rng)) for row in harmful]
    assert 0.3 < sum(safe) / len(safe) < 0.7
    for row in notes + requests:
        assert response_quality(row["family"], row["meta"], row["language"], clean_response(row)) == 1.0
        assert is_safe(row["meta"], clean_response(row))
