"""Owns the column conventions of other libraries: their rows in, rows of zeroq's own schema out.

| convention | prompt | gold answer | told by |
|---|---|---|---|
| zeroq     | `prompt`, text | `answer` | none of the others |
| trl       | `prompt`, text or messages | `answer`, else `solution` (its box, or all of it) | messages; no `answer` |
| verl      | `prompt`, messages | `reward_model.ground_truth`; `data_source` becomes `source` | these columns |
| openrlhf  | `input_key` | `label_key` | `context_messages`, or `input` and no `prompt` |
| open_r1   | `problem` or `prompt` | `verification_info`, else `answer`, else `solution` | the first two names |

Code is told from mathematics by what the gold holds: open-r1's `test_cases`, or verl's ground truth with `inputs` and
`outputs`, become the tests that recipes/code.py reads:

- standard input and output: `tests: [{"input", "output"}]`;
- a function (`fn_name`): tests of kind `call`. An input that is a list holds the arguments; a text holds one JSON value
  a line, one for each. Outputs that are *all* lists of one are taken out of them, as the APPS data wraps them.

Sources: TRL's "Dataset formats and types" and GRPO accuracy reward; verl's "Prepare data for post-training"; OpenRLHF's
`--input_key` and `--label_key`; open-r1's code reward. A row that does not fit is a ValueError that names the column.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.config import FieldMap

Convention = Literal["zeroq", "trl", "verl", "openrlhf", "open_r1"]
Row = dict[str, Any]

MAX_STATED_ANSWER = 300
_DEFAULTS = {"prompt": "prompt", "answer": "answer", "solution": "solution"}
_LANGUAGE_NAMES = {"python3": "python", "py": "python", "c++": "cpp", "js": "javascript", "ts": "typescript"}
_LANGUAGE_NAMES |= {"c#": "csharp", "cs": "csharp", "sh": "bash", "shell": "bash"}
_TOLD_BY = {
    "trl": "its prompt is a list of messages, or it has solution and no answer",
    "verl": "it has data_source and reward_model",
    "openrlhf": "it has context_messages, or input and no prompt, or input_key or label_key is set",
    "open_r1": "it has verification_info, or problem and no prompt",
}


@dataclass(frozen=True)
class Columns:
    """Where a dataset keeps what: its convention and the three names (dotted paths). `told`: found out, not given."""

    convention: Convention
    prompt: str
    answer: str
    solution: str
    told: bool = False

    def note(self, source: object) -> str | None:
        """One line for people when the convention was found out and is not zeroq's own."""
        if not self.told or self.convention == "zeroq":
            return None
        return (
            f"data {source}: read by the {self.convention} convention (prompt: {self.prompt}, answer: {self.answer}), "
            f"because {_TOLD_BY[self.convention]}; data.fields.convention=zeroq turns that off"
        )


def columns_of(fields: FieldMap, first: Mapping[str, Any]) -> Columns:
    """The columns of a dataset whose first row is `first`."""
    convention: Convention = _told(fields, first) if fields.convention == "auto" else fields.convention
    names = dict(_DEFAULTS)
    match convention:
        case "verl":
            names["answer"] = "reward_model.ground_truth"
        case "openrlhf":
            names["prompt"] = fields.input_key or ("context_messages" if "context_messages" in first else "input")
            names["answer"] = fields.label_key or ("answer" if "answer" in first and "label" not in first else "label")
            if fields.input_key is None and names["prompt"] not in first and "prompt" in first:
                names["prompt"] = "prompt"
        case "open_r1":
            names["prompt"] = "problem" if "problem" in first and "prompt" not in first else "prompt"
            if "solution" not in first and "gold_standard_solution" in first:
                names["solution"] = "gold_standard_solution"
    for key, default in _DEFAULTS.items():
        if getattr(fields, key) != default:
            names[key] = getattr(fields, key)
    return Columns(convention, **names, told=fields.convention == "auto")


def _told(fields: FieldMap, row: Mapping[str, Any]) -> Convention:
    prompt = look_up(row, fields.prompt)
    if fields.input_key or fields.label_key:
        return "openrlhf"
    if "verification_info" in row:
        return "open_r1"
    if "data_source" in row and "reward_model" in row:
        return "verl"
    if fields.prompt != _DEFAULTS["prompt"] and isinstance(prompt, str):
        return "zeroq"  # a mapping of the user's own
    if "context_messages" in row or ("input" in row and "prompt" not in row and fields.prompt == "prompt"):
        return "openrlhf"
    if "problem" in row and "prompt" not in row:
        return "open_r1"
    plain = not {"answer", "tests", "domain"} & row.keys() and fields.answer == _DEFAULTS["answer"]
    return "trl" if isinstance(prompt, list) or ("solution" in row and plain) else "zeroq"


def look_up(row: Mapping[str, Any], path: str) -> Any:
    """The value at a column name or dotted path; None where there is none. JSON objects written as text are entered."""
    if path in row:
        return row[path]
    node: Any = row
    for part in path.split("."):
        if isinstance(node, str) and node.lstrip().startswith("{"):
            node = _json(node)
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def to_zeroq(row: Mapping[str, Any], columns: Columns) -> Row:
    """The row in zeroq's schema: `prompt` (text, or a list of messages), `answer`, `solution`, and for code `domain`,
    `language`, `tests`; the other columns stay. What it says of `prompt` and `answer` is not checked here. ValueError
    for a gold that cannot be read."""
    out = dict(row)
    out["prompt"] = look_up(row, columns.prompt)
    answer, solution = look_up(row, columns.answer), look_up(row, columns.solution)
    answer = answer if columns.convention == "zeroq" else _one(answer)
    match columns.convention:
        case "verl":
            out.setdefault("source", row.get("data_source"))
            tests = _json(answer) if isinstance(answer, str) and answer.lstrip().startswith("{") else answer
            if isinstance(tests, Mapping) and {"inputs", "outputs"} <= tests.keys():
                out |= _code(_pairs(tests, columns.answer), row.get("language") or tests.get("language"))
                out.pop("reward_model", None)  # the tests, once more
                answer = None
        case "open_r1" if row.get("verification_info") is not None:
            info = _information(row["verification_info"])
            out.pop("verification_info")
            if "test_cases" in info:
                out |= _code(info["test_cases"], info.get("language"))
                answer, solution = None, _program(solution)
            elif (gold := _one(info.get("ground_truth", info.get("answer")))) is not None:
                answer = gold
            elif answer is None:
                raise ValueError(
                    f"verification_info has {', '.join(map(str, info)) or 'nothing'}; test_cases (code) or "
                    "ground_truth (mathematics) is needed"
                )
    if answer is None and columns.convention in ("trl", "open_r1") and "tests" not in out:
        answer, solution = _answer_in(solution)
    return out | {"answer": answer, "solution": solution}


def _answer_in(solution: Any) -> tuple[Any, Any]:
    """(answer, worked solution) of a gold solution: its last box, or all of a short one."""
    if not isinstance(solution, str):
        return solution, None
    box = _last_box(solution)
    if box is not None:
        return box, solution if len(solution) > len(box) + len("$\\boxed{}$.") else None
    if "\n" in solution.strip() or len(solution) > MAX_STATED_ANSWER:
        raise ValueError(
            f"column 'solution' is a text of {len(solution)} characters without \\boxed{{...}}, so no answer can be "
            "compared; name the answer's column with data.fields.answer=NAME"
        )
    return solution.strip() or None, None


def _last_box(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    depth, position = 0, start + len("\\boxed")
    while start >= 0 and position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : position].strip() or None
        position += 1
    return None


def _one(value: Any) -> Any:
    """A gold given as a list of one is that one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _information(value: Any) -> Mapping[str, Any]:
    info = _json(value) if isinstance(value, str) else value
    if not isinstance(info, Mapping):
        raise ValueError(f"verification_info must be an object, or one as JSON text, got {_short(value)}")
    return {key: entry for key, entry in info.items() if entry is not None}


def _pairs(tests: Mapping[str, Any], what: str) -> list[Row]:
    inputs, outputs, name = tests["inputs"], tests["outputs"], tests.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"{what}: inputs and outputs must be lists of the same length, and not empty")
    return [{"input": i, "output": o, "fn_name": name} for i, o in zip(inputs, outputs, strict=True)]


def _code(cases: Any, language: Any) -> Row:
    """`domain`, `language` and `tests` of test cases as open-r1 writes them."""
    cases = _json(cases) if isinstance(cases, str) else cases
    if not isinstance(cases, list) or not cases or not all(isinstance(case, Mapping) for case in cases):
        raise ValueError(f"test_cases must be a list of objects with input and output, got {_short(cases)}")
    name = language.strip().lower() if isinstance(language, str) else language
    head = {"domain": "code", "language": _LANGUAGE_NAMES.get(name, name) if isinstance(name, str) else name}
    functions = {case.get("fn_name") or None for case in cases}
    if len(functions) != 1 or len({case.get("type") or None for case in cases}) != 1:
        raise ValueError("test_cases mix functions or types; one problem has one function, or reads standard input")
    function, kind = functions.pop(), cases[0].get("type")
    if kind not in (None, "stdin_stdout", "function_call"):
        raise ValueError(f"test_cases: type must be stdin_stdout or function_call, got {_short(kind)}")
    if kind == "function_call" and function is None:
        raise ValueError("test_cases of type function_call need fn_name")
    if function is None or kind == "stdin_stdout":
        return head | {"tests": [{"input": _joined(c, "input"), "output": _joined(c, "output")} for c in cases]}
    args = [_arguments(case.get("input"), index) for index, case in enumerate(cases)]
    outputs = [_json(o) if isinstance(o := case.get("output"), str) else o for case in cases]
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]
    made = [{"args": a, "expected": o} for a, o in zip(args, outputs, strict=True)]
    return head | {"tests": {"kind": "call", "entry_point": function, "cases": made}}


def _joined(case: Mapping[str, Any], key: str) -> Any:
    """Text of a standard stream; a list of lines is joined."""
    value = case.get(key)
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value


def _arguments(value: Any, index: int) -> Sequence[Any]:
    if isinstance(value, str):
        return [_json(line) for line in value.splitlines() if line.strip()]
    if isinstance(value, list):
        return value
    raise ValueError(f"test_cases[{index}].input must be a list of arguments or JSON text, got {_short(value)}")


def _program(solution: Any) -> Any:
    """A reference program without the Markdown fence around it."""
    if not isinstance(solution, str) or "```" not in solution:
        return solution
    return solution.split("```")[1].partition("\n")[2].rstrip()


def _json(text: str) -> Any:
    """The value of a JSON text; the text itself when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
