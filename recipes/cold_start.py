"""Owns the demo's cold-start data: worked sums that mostly give up before the end.

    prompt    State the final answer to the following arithmetic problem: 4 + 9 - 6 + 1 =
    response  <think>4 + 9 = 13
              13 - 6 = 7</think><answer>7</answer>          (careless: the last term was left out)

Each step is right; what is wrong with most traces is that they stop early and answer the running total. A model
trained on them can do arithmetic, yet its most likely behaviour is to stop too soon. Reinforcement learning has then
something to discover that no trace told it: that working through to the end pays.
"""

import random
import re
from collections.abc import Sequence

from recipes.problems import Problem

TEMPLATE = "{prompt}\n"

_EXPRESSION = re.compile(r"-?\d+(?: [+-] -?\d+)+")


def parse_expression(prompt: str) -> tuple[int, list[tuple[str, int]]]:
    """Read the one sum in `prompt`: its first term, then (operator, term) pairs.

    Raises ValueError when there is none, or more than one.
    """
    found = _EXPRESSION.findall(prompt)
    if len(found) != 1:
        raise ValueError(f"want one sum such as '4 + 9 - 6' in the prompt, found {len(found)}: {prompt!r}")
    first, *rest = found[0].split(" ")
    return int(first), [(op, int(term)) for op, term in zip(rest[::2], rest[1::2], strict=True)]


def worked_response(first: int, steps: Sequence[tuple[str, int]]) -> str:
    """The response that works through `steps` from `first`, one line each, and answers the last running total."""
    total = first
    lines = []
    for operator, term in steps:
        after = total + term if operator == "+" else total - term
        lines.append(f"{total} {operator} {term} = {after}")
        total = after
    return "<think>" + "\n".join(lines) + f"</think><answer>{total}</answer>"


def cold_start_traces(
    problems: Sequence[Problem], *, seed: int, stop_probability: float, template: str = TEMPLATE
) -> list[tuple[str, str]]:
    """One (prompt text, response text) for each problem, in order.

    After every step but the last the trace stops with `stop_probability`: n steps are worked to the end with
    probability (1 - stop_probability)^(n - 1). Above 0.5 the likeliest next token after any step is to stop, so that
    greedy decoding fails as well, not sampling alone. The first step is always written. The problem's answer is not
    read.
    """
    if not 0.0 <= stop_probability <= 1.0:
        raise ValueError(f"stop_probability must be in [0, 1], got {stop_probability}")
    rng = random.Random(seed)
    traces = []
    for problem in problems:
        first, steps = parse_expression(problem.prompt)
        count = 1
        while count < len(steps) and rng.random() >= stop_probability:
            count += 1
        traces.append((template.format(prompt=problem.prompt), worked_response(first, steps[:count])))
    return traces
