"""Owns rejection sampling at work (R1, stage 2c): decontaminate, sample, grade, judge, select; a corpus and its table.

problems ── decontaminate ── sample and grade (actors, evaluators) ── Selector ── STAGE/corpus.parquet
                                                                        └── STAGE/acceptance.md, samples.parquet
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.errors import UserError
from common.lifecycle import write_atomic
from launcher.stages import Outcome, StageContext
from launcher.stages.judging import make_judge
from launcher.stages.samples import write_samples
from launcher.stages.sampling import read_problems, sample_problems, sampling_config
from launcher.stages.selecting import graded_tasks, language_share
from launcher.stages.supervised import count_by_source, note_tokenizer
from recipes.datasets import Example, load_examples
from recipes.pipeline.config import Problems
from recipes.stages.corpus import write_corpus
from recipes.stages.selection import Selector


def rejection_sample(context: StageContext) -> Outcome:
    """Sample from `settings.model` and keep what is right, readable and not too much alike."""
    settings = context.settings
    config = sampling_config(context, settings.model, settings.run)
    examples = read_problems(settings.problems, config, need_answer=False)
    examples, removed = decontaminate(context, config, examples)
    sampled = sample_problems(context, config, examples, settings.sampling, name="sampled")
    write_samples(context.folder / "samples.parquet", sampled)
    with make_judge(context) as judge:
        selector = Selector(settings.selection, origin=context.name, language_share=language_share, judge=judge)
        selector.add(graded_tasks(sampled))
    selection = selector.finish()
    if not selection.rows:
        raise UserError(
            f"no sample is kept of {sum(len(s.completions) for s in sampled)}; see {context.folder}/samples.parquet, "
            "and loosen selection.filters or sample from a better model"
        )
    corpus, table = context.folder / "corpus.parquet", context.folder / "acceptance.md"
    write_corpus(corpus, selection.rows)
    note_tokenizer(corpus, settings.model)
    write_atomic(table, selection.acceptance.markdown())
    totals = selection.acceptance.totals()
    context.say(f"kept {totals['kept']} of {totals['sampled']} samples, {totals['correct']} of them right")
    figures = {
        **{name: totals[name] for name in ("prompts", "sampled", "correct", "kept")},
        "acceptance": totals["kept"] / max(1, totals["sampled"]),
        "by_source": count_by_source(selection.rows),
        "removed_by_decontamination": removed,
        "table": selection.acceptance.rows(),
    }
    return Outcome({"corpus": corpus, "acceptance": table}, figures)


def decontaminate(
    context: StageContext, config: RunConfig, examples: Sequence[Example]
) -> tuple[list[Example], dict[str, int]]:
    """Problems that share no n-gram with an evaluation set; how many were left out, by set."""
    from recipes.stages.decontaminate import overlapping

    settings, removed = context.settings, {}
    kept = list(examples)
    report: list[dict[str, Any]] = []
    for name in settings.decontaminate:
        held_out = evaluation_prompts(name, config)
        found = overlapping(
            [e.prompt for e in kept],
            [e.prompt for e in held_out],
            n=settings.ngram,
            max_share=settings.common_ngram_share,
        )
        hit = {overlap.train for overlap in found}
        report += [
            {"suite": name, "row": kept[o.train].where, "evaluation": held_out[o.evaluation].where, "shared": o.shared}
            for o in found
        ]
        kept = [example for index, example in enumerate(kept) if index not in hit]
        removed[Path(name).name] = len(hit)
        if hit:
            context.say(f"{len(hit)} problems overlap with {name} and are left out (decontamination.json)")
    if settings.decontaminate:
        write_atomic(context.folder / "decontamination.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if not kept:
        raise UserError(
            "every problem overlaps with an evaluation set; sample from other problems, or set a "
            "common_ngram_share if the overlaps are the template that all problems share"
        )
    return kept, removed


def evaluation_prompts(name: str, config: RunConfig) -> list[Example]:
    """The problems of an evaluation set, given by file or by a suite's name."""
    from recipes.suites.registry import is_suite, suite_source

    source = suite_source(name) if is_suite(name) else Problems(path=name).path
    return load_examples(source, fields=config.data.fields, training=False, need_answer=False)
