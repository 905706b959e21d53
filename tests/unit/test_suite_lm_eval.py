"""lm-eval's tasks as suites: local tasks through its real API (where it is installed), and what is said without it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from common.errors import UserError
from recipes.suites import lm_eval
from recipes.suites.registry import find_suites
from recipes.suites.suite import load_suite

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason=f"lm_eval is not installed here ({lm_eval.INSTALL})"
)
# Of lm-eval and its dependencies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"
)

GENERATE = """\
task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "Add: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"]}}
filter_list:
  - name: last-number
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
CHOICE = """\
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: gold
"""
LETTERED = (
    CHOICE.replace("local_choice", "local_lettered")
    .replace('"{{{{options}}}}"', '["A", "B"]')
    .replace('"{{{{question}}}}"', '"{{{{question}}}}\\nA. {{{{options[0]}}}}\\nB. {{{{options[1]}}}}\\nAnswer:"')
)


def write_task(folder: Path, text: str) -> str:
    data = folder / "data.json"
    rows = [
        {"question": "2 + 3", "answer": "5", "options": ["five", "six"], "gold": 0},
        {"question": "4 + 4", "answer": "8", "options": ["nine", "eight"], "gold": 1},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "task.yaml"
    path.write_text(text.format(data=data))
    return str(path)


@installed
def test_generation_is_judged_by_the_tasks_own_filter_and_metric(tmp_path: Path) -> None:
    (suite,) = find_suites([f"lm_eval:{write_task(tmp_path, GENERATE)}"])
    assert (suite.name, suite.k, suite.score) == ("lm_eval_task", 1, lm_eval.SCORE)
    examples = load_suite(suite)
    assert [example.prompt for example in examples] == ["Add: 2 + 3\nAnswer:", "Add: 4 + 4\nAnswer:"]
    completions = [
        "<think>2 and 3 make 6? no: 5</think><answer>It is 5</answer>",
        "<think>8</think> <answer>7</answer>",
        "<think>it is 5, but never closed",
        "</think>first 4, then 5",
    ]
    columns = {key: [value] * 4 for key, value in examples[0].columns.items()}
    assert lm_eval.score([""] * 4, completions, **columns) == [1.0, 0.0, 0.0, 1.0]
    second = {key: [value] for key, value in examples[1].columns.items()}
    assert lm_eval.score([""], ["<answer>8</answer>"], **second) == [1.0]


@installed
@pytest.mark.parametrize("text", [CHOICE, LETTERED])
def test_choices_are_lettered_and_the_letter_is_the_answer(tmp_path: Path, text: str) -> None:
    (suite,) = find_suites([f"lm_eval:{write_task(tmp_path, text)}"])
    assert suite.score is None
    first, second = load_suite(suite)
    assert (first.answer, second.answer) == ("A", "B")
    assert first.prompt.startswith("2 + 3\n")
    assert first.prompt.count("five") == 1
    assert first.prompt.endswith("Answer with the letter of the right choice only.")


@installed
def test_tasks_that_need_log_probabilities_and_unknown_names_are_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path, GENERATE.replace("generate_until", "loglikelihood"))
    with pytest.raises(UserError, match=r"task local_sums is of type loglikelihood, which needs log-probabilities"):
        find_suites([f"lm_eval:{path}"])
    with pytest.raises(UserError, match=r"no task, group or tag of that name; did you mean .*ifeval"):
        find_suites(["lm_eval:ifevall"])
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        find_suites(["lm_eval:absent.yaml"])


def test_without_lm_eval_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    lm_eval._manager.cache_clear()
    monkeypatch.setattr(lm_eval.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"needs EleutherAI's lm-eval .*pip install lm_eval"):
        find_suites(["lm_eval:ifeval"])


def test_the_visible_answer() -> None:
    assert lm_eval.visible_answer("", "<think>a</think> b <answer> c </answer>") == "c"
    assert lm_eval.visible_answer("", "<think>a</think> b ") == "b"
    assert lm_eval.visible_answer("... <think>\n", "a</think>b") == "b"
    assert lm_eval.visible_answer("... <think>\n", "never closed") == ""
    assert lm_eval.visible_answer("", "no tags") == "no tags"
