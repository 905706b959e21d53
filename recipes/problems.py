"""Owns problems: one record shape for every data file, and the ones that reasoning-gym generates.

reasoning-gym is imported on first use: it takes seconds, and reading a data file must not pay for it.
"""

import difflib
import json
import random
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

SOURCE = "https://github.com/open-thought/reasoning-gym"
LICENSE = "Apache-2.0"


@dataclass(frozen=True)
class Problem:
    """One problem with a checkable answer; the fields are those of the JSON-lines schema of our data files."""

    id: str
    prompt: str
    answer: str
    solution: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    domain: str = "math"
    source: str = SOURCE
    license: str = LICENSE

    def to_json(self) -> str:
        """This problem as one line of JSON (no newline at its end)."""
        record = {
            "id": self.id,
            "domain": self.domain,
            "prompt": self.prompt,
            "answer": self.answer,
            "solution": self.solution,
            "source": self.source,
            "license": self.license,
            "meta": self.meta,
        }
        return json.dumps(record, ensure_ascii=False)


def reasoning_gym_problems(
    dataset: str, *, num: int, seed: int, exclude: AbstractSet[str] = frozenset(), **params: Any
) -> list[Problem]:
    """Generate `num` problems of the reasoning-gym dataset `dataset`, no two with the same prompt.

    `exclude` holds prompts that must not come out: pass the held-out prompts to generate training problems disjoint
    from them. `params` go to the dataset's configuration (`min_terms=3`). `meta` keeps what reasoning-gym's scorer
    needs: `{"dataset", "params", "metadata"}`.

    Raises ValueError when the dataset yields too few distinct prompts (its space may simply be that small).
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=1) or ["chain_sum"]
        raise ValueError(f"no such dataset; did you mean {near[0]}?")
    # reasoning-gym draws item i from Random(seed + i): neighbouring seeds would repeat each other's items.
    first = random.Random(f"{dataset}/{seed}").randrange(2**31)
    tries = 10 * num + 1000
    entries = reasoning_gym.create_dataset(dataset, seed=first, size=tries, **params)
    seen = set(exclude)
    problems: list[Problem] = []
    for index in range(tries):
        if len(problems) == num:
            break
        entry = entries[index]
        prompt = entry["question"]
        if prompt in seen:
            continue
        seen.add(prompt)
        meta = {"dataset": dataset, "params": params, "metadata": entry["metadata"]}
        problems.append(
            Problem(
                id=f"{dataset}/{seed}/{index}",
                prompt=prompt,
                answer=str(entry["answer"]),
                meta=json.loads(json.dumps(meta)),
            )
        )
    if len(problems) < num:
        raise ValueError(
            f"reasoning-gym {dataset} (seed {seed}, {params}) gave {len(problems)} of {num} distinct problems in "
            f"{tries} draws with {len(exclude)} prompts excluded; ask for fewer, or widen its parameters"
        )
    return problems
