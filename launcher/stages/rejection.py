"""Owns rejection sampling at work (R1, stage 2c): decontaminate, sample, grade, judge, select; a corpus and its table.

problems ── decontaminate ── sample and grade (actors, evaluators) ── Selector ── STAGE/corpus.parquet
                                                                        └── STAGE/acceptance.md, samples.parquet
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from common.config import RunConfig
from common.errors import UserError
from common.lifecycle import write_atomic
from launcher.stages import Outcome, StageContext
from launcher.stages.held_out import evaluation_prompts
from launcher.stages.judging import make_judge
from launcher.stages.samples import write_samples
from launcher.stages.sampling import read_problems, sample_problems, sampling_config
from launcher.stages.selecting import graded_tasks, language_share
from launcher.stages.supervised import count_by_source, note_tokenizer
from recipes.datasets import Example
from recipes.stages.corpus import write_corpus
from recipes.stages.decontaminate import decontaminate
from recipes.stages.selection import Selector


def rejection_sample(context: StageContext) -> Outcome:
    """Sample from `settings.model` and keep what is right, readable and not too much alike."""
    settings = context.settings
    config = sampling_config(context, settings.model, settings.run)
    examples = read_problems(settings.problems, config, need_answer=False)
    examples, removed = without_held_out(context, config, examples)
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


def without_held_out(
    context: StageContext, config: RunConfig, examples: Sequence[Example]
) -> tuple[list[Example], dict[str, int]]:
    """Problems that share no n-gram with an evaluation set; how many were left out, by set."""
    settings = context.settings
    if not settings.decontaminate:
        return list(examples), {}
    suites = {name: [e.prompt for e in evaluation_prompts(name, config.data.fields)] for name in settings.decontaminate}
    kept, report = decontaminate(
        examples,
        suites,
        problem=lambda example: example.prompt,
        name=lambda example: example.where,
        n=settings.ngram,
        max_share=settings.common_ngram_share,
    )
    write_atomic(
        context.folder / "decontamination.json", json.dumps(report.rows(), indent=1, ensure_ascii=False) + "\n"
    )
    if report.removed:
        context.say(f"{report.removed} problems overlap with evaluation sets and are left out (decontamination.json)")
    if not kept:
        raise UserError(
            "every problem overlaps with an evaluation set; sample from other problems, or set a common_ngram_share if "
            "the overlaps are the template that all problems share"
        )
    return kept, {Path(name).name: count for name, count in report.by_suite.items()}
