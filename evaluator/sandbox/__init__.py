"""Runs programs that a model wrote, letting nothing out and letting nobody cheat.

    CodeGrader (grader.py) --job--> stdio.py | functions.py | suffix.py --Cell (jail.py)--> zygote --clone--> cell

Expected answers stay in the evaluator's process, or in a judge's cell of its own; a program's cell holds its source and
its input. inside/ is what runs in the jail, on the standard library alone. docs/evaluators.md has the threat model.
"""

from __future__ import annotations

from common.errors import ZeroqError


class InfraError(ZeroqError):
    """The sandbox is at fault, or lacks something: no verdict about the program may come of it."""
