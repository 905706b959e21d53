"""Owns the conversion of published benchmarks' rows to our schema, where columns alone do not do.

Each function takes a row as the hub has it and returns one of ours, or None for a problem that cannot be graded here.
A KeyError, TypeError or ValueError means that the row is not what its publisher documents.
"""

from __future__ import annotations

import base64
import json
import pickletools
import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TEXT_OPS = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}
_STRING_OPS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """The question with lettered choices, to be answered by a letter."""
    lines = [f"{letter}) {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question.strip(), "", *lines, "", "Answer with the letter of the right choice only."])


def math500(row: Mapping[str, Any]) -> dict[str, Any]:
    """HuggingFaceH4/MATH-500, the split of Lightman et al. 2023 (arXiv 2305.20050)."""
    return {
        "id": str(row["unique_id"]),
        "domain": "math",
        "prompt": str(row["problem"]),
        "answer": str(row["answer"]),
        "meta": {"subject": row.get("subject"), "level": row.get("level")},
    }


def gpqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """Idavidrein/gpqa (Rein et al. 2023, arXiv 2311.12022). Choices are shuffled, the same for the same record."""
    identity = str(row["Record ID"])
    choices = [str(row["Correct Answer"]), *(str(row[f"Incorrect Answer {number}"]) for number in (1, 2, 3))]
    order = list(range(4))
    random.Random(f"gpqa/{identity}").shuffle(order)
    return {
        "id": identity,
        "domain": "knowledge",
        "prompt": multiple_choice(str(row["Question"]), [choices[index] for index in order]),
        "answer": LETTERS[order.index(0)],
        "meta": {"subdomain": row.get("Subdomain")},
    }


def live_code_bench(row: Mapping[str, Any]) -> dict[str, Any]:
    """livecodebench/code_generation_lite (Jain et al. 2024, arXiv 2403.07974): standard input, or a method to write."""
    tests = [*json.loads(row["public_test_cases"]), *_private_tests(str(row["private_test_cases"]))]
    starter = str(row.get("starter_code") or "")
    problem: dict[str, Any] = {
        "id": str(row["question_id"]),
        "domain": "code",
        "prompt": str(row["question_content"]),
        "meta": {key: row.get(key) for key in ("platform", "difficulty", "contest_id")}
        | {"contest_date": str(row.get("contest_date"))},
    }
    if all(test["testtype"] == "stdin" for test in tests):
        pairs = [{"input": test["input"], "output": test["output"]} for test in tests]
        return problem | {"test_type": "stdin_stdout", "tests": pairs}
    metadata = row["metadata"]
    name = str((json.loads(metadata) if isinstance(metadata, str) else metadata)["func_name"])
    cases = [
        {
            "args": [json.loads(line) for line in test["input"].splitlines() if line],
            "expected": json.loads(test["output"]),
        }
        for test in tests
    ]
    call: dict[str, Any] = {"kind": "call", "entry_point": name, "cases": cases}
    if "class Solution" in starter:
        call["cls"] = "Solution"
    return problem | {"language": "python", "starter": starter, "tests": call}


def codeforces(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """open-r1/codeforces. Left out: problems with a checker of their own, interactive ones, those without tests."""
    tests = row.get("official_tests") or []
    if row.get("generated_checker") or row.get("input_mode", "stdio") != "stdio" or not tests:
        return None
    parts = [str(row["description"])]
    for title, key in (("Input", "input_format"), ("Output", "output_format"), ("Note", "note")):
        parts += [f"{title}\n{row[key]}"] if row.get(key) else []
    for example in row.get("examples") or []:
        parts.append(f"Example input\n{example['input']}\nExample output\n{example['output']}")
    limits = {"time_limit_s": row.get("time_limit")}
    if row.get("memory_limit"):
        limits["memory_limit_gb"] = float(row["memory_limit"]) / 1024  # the source counts in MB
    return {
        "id": str(row["id"]),
        "domain": "code",
        "prompt": "\n\n".join(parts),
        "test_type": "stdin_stdout",
        "tests": [{"input": test["input"], "output": test["output"]} for test in tests],
        "meta": {key: row.get(key) for key in ("contest_id", "index", "rating")},
    } | {key: value for key, value in limits.items() if value is not None}


def _private_tests(text: str) -> list[dict[str, str]]:
    """Tests as JSON, or as base64 of zlib of a pickled JSON text (the publisher's way to make the file smaller)."""
    try:
        return list(json.loads(text))
    except ValueError:
        return list(json.loads(_pickled_text(zlib.decompress(base64.b64decode(text)))))


def _pickled_text(data: bytes) -> str:
    """The one string that a pickle holds, read without unpickling; ValueError for a pickle of anything else."""
    found: list[str] = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in _STRING_OPS:
            found.append(str(argument))
        elif operation.name not in _TEXT_OPS:
            raise ValueError(f"a pickled text was expected, found {operation.name}")
    if len(found) != 1:
        raise ValueError(f"one pickled text was expected, found {len(found)}")
    return found[0]
