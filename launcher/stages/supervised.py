"""Owns the supervised stages: SFT on corpora (R1's stage 2c, distillation, pretraining of small models), cold start.

corpora ── checked ── STAGE/run/config.yaml ── `python -m learner.supervised` ── STAGE/run/checkpoints/step-N

cold start: user's corpora + filtered samples of a checkpoint + few-shot samples ── STAGE/corpus.parquet ── SFT
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config_file import validate
from common.errors import UserError
from common.job_config import SftConfig
from common.lifecycle import RunPaths
from launcher.stages import Interrupted, Outcome, StageContext
from launcher.stages.grpo import last_checkpoint
from launcher.stages.held_out import refuse_held_out
from launcher.stages.sampling import plain_prompts, read_problems, sample_problems, sampling_config
from launcher.stages.selecting import graded_tasks, language_share
from recipes.conversation_corpus import conversation_rows, is_conversation
from recipes.datasets import read_rows
from recipes.model_files import PromptTokenizer, locate_model
from recipes.pipeline.config import FewShotSource, FilteredSource, merged, read_preset
from recipes.stages.corpus import CorpusRow, read_corpus, write_corpus
from recipes.stages.merge import merge_sources
from recipes.stages.selection import Selector

_FIGURES = (
    "steps",
    "epochs",
    "loss",
    "eval_loss",
    "num_examples",
    "num_dropped",
    "num_tokens",
    "tokens_per_s",
    "seconds",
)
_TOKENIZER = "tokenizer.digest"


def fine_tune(context: StageContext) -> Outcome:
    """SFT of `settings.model` on `settings.data`."""
    settings = context.settings
    if not settings.allow_other_tokenizer:
        check_tokenizers(settings.model, corpus_paths(settings.data))
    refuse_held_out(corpus_paths(settings.data), settings.held_out, ngram=settings.ngram)
    model, figures = run_sft(context, settings.model, settings.data, settings.job)
    return Outcome({"model": model}, figures)


def cold_start(context: StageContext) -> Outcome:
    """Gather long readable chains from up to three sources, then SFT on them; each source with its count."""
    settings = context.settings
    sources: dict[str, list[CorpusRow]] = {}
    if settings.user:
        sources["user"] = [row for path in corpus_paths(settings.user) for row in user_rows(path, settings.model)]
    if settings.filtered is not None:
        sources["filtered"] = _filtered_rows(context, settings.filtered)
    if settings.few_shot is not None:
        sources["few_shot"] = _few_shot_rows(context, settings.few_shot)
    merged_rows = merge_sources(sources, settings.merge, language_share=language_share, domain=_domain)
    rows, table = merged_rows.rows, merged_rows.table()
    if not rows:
        raise UserError(f"no chain is left to train on ({table}); name user corpora, or loosen merge.filters")
    corpus = context.folder / "corpus.parquet"
    write_corpus(corpus, rows)
    note_tokenizer(corpus, settings.model)
    refuse_held_out([corpus], settings.held_out, ngram=settings.ngram)
    context.say(f"cold start of {len(rows)} chains")
    model, figures = run_sft(context, settings.model, [str(corpus)], settings.job)
    return Outcome({"model": model, "corpus": corpus}, {"chains": len(rows), "sources": table, **figures})


def run_sft(
    context: StageContext, model: str, data: Sequence[Any], own: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """A supervised job in STAGE/run, continued where it was stopped; its last checkpoint and figures."""
    from rich.console import Console

    from launcher.jobs import run_job

    paths = RunPaths(context.folder / "run")
    fixed = {
        "model": str(locate_model(model)),
        "seed": context.seed,
        "resume": "auto" if paths.checkpoints.exists() else "never",
        "run": {"dir": str(context.folder), "name": "run"},
        "sft": {"data": list(data)},
    }
    preset = read_preset(context.settings.preset)
    config = validate(SftConfig, merged(preset, context.defaults.sft, own, fixed), f"stages.{context.name}.job")
    summary = run_job("sft", config, paths, stop=context.stop, console=Console())
    if summary["result"] != "finished":
        raise Interrupted(f"stage {context.name}: stopped; the same command goes on from its last checkpoint")
    figures = {name: summary[name] for name in _FIGURES if summary.get(name) is not None}
    return last_checkpoint(paths), figures


def corpus_paths(data: Sequence[Any]) -> list[Path]:
    """The files that an SFT stage's `data` names."""
    return [Path(item["path"] if isinstance(item, Mapping) else item) for item in data]


def tokenizer_digest(model: str | Path) -> str:
    """Digest of what decides the tokens of a text: tokenizer.json and the chat template."""
    folder = locate_model(str(model), weights=False)
    total = hashlib.blake2b(digest_size=16)
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"):
        if (folder / name).is_file():
            total.update(name.encode() + (folder / name).read_bytes())
    return total.hexdigest()


def note_tokenizer(corpus: Path, model: str | Path) -> None:
    """Write beside a corpus for which tokenizer its prompts were rendered."""
    corpus.with_suffix(f".{_TOKENIZER}").write_text(tokenizer_digest(model) + "\n", encoding="ascii")


def check_tokenizers(model: str, corpora: Sequence[Path]) -> None:
    """UserError for a corpus whose prompts were rendered for another tokenizer or chat template than the model's."""
    own = tokenizer_digest(model)
    for corpus in corpora:
        noted = corpus.with_suffix(f".{_TOKENIZER}")
        if noted.is_file() and noted.read_text(encoding="ascii").strip() != own:
            raise UserError(
                f"{corpus}: its prompts were rendered for another tokenizer or chat template than that of {model}; "
                "make it with a model of this family, or set allow_other_tokenizer: true if the text fits both"
            )


def user_rows(path: Path, model: str) -> list[CorpusRow]:
    """Rows of a user's file: a corpus, or conversations that go through the model's chat template. UserError."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        _, first = next(iter(read_rows(str(path), "train")), ("", {}))
        if is_conversation(first):
            return list(conversation_rows(str(path), PromptTokenizer(locate_model(model)).render))
    return read_corpus(path)


def _domain(row: CorpusRow) -> str:
    """Code blocks are allowed in what is about code."""
    return "code" if row.source == "code" else row.kind if row.kind == "general" else "math"


def _filtered_rows(context: StageContext, source: FilteredSource) -> list[CorpusRow]:
    """Right and readable outputs of a checkpoint (R1: R1-Zero's)."""
    config = sampling_config(context, source.model, context.settings.sampling)
    sampled = sample_problems(context, config, read_problems(source.problems, config), source.sampling, name="filtered")
    selector = Selector(source.selection, origin=f"{context.name}/filtered", language_share=language_share)
    selector.add(graded_tasks(sampled))
    return selector.finish().rows


def _few_shot_rows(context: StageContext, source: FewShotSource) -> list[CorpusRow]:
    """Chains that a model wrote after worked examples; their prompts are the plain ones again."""
    from recipes.stages.few_shot import few_shot_prompt, parse_few_shot, worked_examples

    config = sampling_config(context, source.model, context.settings.sampling)
    examples = read_problems(source.problems, config)
    worked = worked_examples(read_corpus(Path(source.examples)), source.num_examples)
    prompts = [few_shot_prompt(worked, example.prompt) for example in examples]
    sampled = sample_problems(context, config, examples, source.sampling, name="few_shot", prompts=prompts)
    plain = plain_prompts(config, [s.example for s in sampled])
    selector = Selector(source.selection, origin=f"{context.name}/few_shot", language_share=language_share)
    selector.add(graded_tasks(sampled, prompts=plain, parse=parse_few_shot))
    return selector.finish().rows


def count_by_source(rows: Sequence[CorpusRow]) -> dict[str, int]:
    """Rows of each source, most first."""
    return dict(Counter(row.source for row in rows).most_common())
