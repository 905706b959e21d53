"""Which compilers and interpreters are on this machine, as the jail will see them."""

from __future__ import annotations

import os
import shutil

from evaluator.sandbox import InfraError
from evaluator.sandbox.languages import LANGUAGES, PATH, Language


class ToolMissing(InfraError):
    """A tool is not installed: trying again is no use."""


def missing_tools(language: Language) -> list[str]:
    """Those of the language's tools that are not installed."""
    return [tool for tool in language.tools if find_tool(tool) is None]


def find_tool(name: str) -> str | None:
    """Absolute path of a tool as the jail will see it."""
    if name.startswith("/"):
        return name if os.path.exists(name) else None
    return shutil.which(name, path=PATH)


def resolve(argv: list[str]) -> list[str]:
    """`argv` with its program's absolute path; InfraError if it is not there."""
    found = argv[0] if argv[0].startswith((".", "/")) else find_tool(argv[0])
    if found is None:
        raise ToolMissing(f"{argv[0]} is not installed (make evaluator-languages)")
    return [found, *argv[1:]]


def languages_here(tier: int) -> dict[str, str]:
    """For each language, whether it can be graded here."""
    report = {"python": "yes"}
    for name, language in LANGUAGES.items():
        if name == "python":
            continue
        missing = missing_tools(language)
        if tier < 2:
            report[name] = "no: tier 1 runs Python alone"
        else:
            report[name] = f"no: {', '.join(missing)} not installed (make evaluator-languages)" if missing else "yes"
    return report
