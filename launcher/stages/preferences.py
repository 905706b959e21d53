"""Owns making preferences at work: responses of a checkpoint, judged; what the stage of reward models is trained on.

prompts ── sample (actors) ─┬─ pairs of one prompt's samples ── judge ── STAGE/helpful.parquet
                            └─ every sample ─────────────────── judge ── STAGE/safety.parquet
replies of the judge: STAGE/judge.jsonl; samples: STAGE/samples.parquet
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import UserError
from launcher.sampling import Sampler
from launcher.stages import Outcome, StageContext
from launcher.stages.judging import REPLIES, UNGRADED, make_asker
from launcher.stages.samples import write_samples
from launcher.stages.sampling import ProblemSampling, Sampled, read_problems, sampling_config
from launcher.stages.selecting import source_of
from recipes.stages.corpus import HelpfulPair, SafetyLabel, write_rows
from recipes.stages.preferences import Candidate, Reads, Reply, judge_pairs, label_safety, readable


def make_preferences(context: StageContext) -> Outcome:
    """Sample from `settings.model`, ask the judge, and write what it decided. UserError if nothing is decided."""
    settings, cache = context.settings, context.folder / REPLIES
    sampled = _sample(context)
    write_samples(context.folder / "samples.parquet", [s for own in sampled.values() for s in own])
    outputs: dict[str, Path] = {}
    figures: dict[str, Any] = {}
    with make_asker(context) as asker:
        if settings.helpful is not None:
            candidates, lost = pair_up(sampled["helpful"], settings.judging.reads)
            context.say(
                f"helpful: {len(candidates)} pairs, {settings.judging.queries} questions each, to {asker.where}"
            )
            pairs, report = judge_pairs(candidates, asker, settings.judging, cache=cache)
            found: dict[str, Any] = {**lost, **asdict(report)}
            if not pairs:
                raise UserError(f"helpful: no pair is kept ({_shown(found)}); sample more, or loosen `judging`")
            outputs["helpful"] = context.folder / "helpful.parquet"
            write_rows(outputs["helpful"], pairs, HelpfulPair)
            context.say(f"helpful: {_shown(found)}")
            figures |= {f"helpful_{name}": value for name, value in found.items()}
        if settings.safety is not None:
            replies = to_label(sampled["safety"])
            context.say(f"safety: {len(replies)} responses, to {asker.where}")
            labels, counts = label_safety(replies, asker, settings.judging, cache=cache)
            counts = {"cut_off": sum(len(s.completions) for s in sampled["safety"]) - len(replies), **counts}
            if not labels:
                raise UserError(f"safety: no response is labelled ({_shown(counts)}); sample more, or another judge")
            outputs["safety"] = context.folder / "safety.parquet"
            write_rows(outputs["safety"], labels, SafetyLabel)
            context.say(f"safety: {_shown(counts)}")
            figures |= {f"safety_{name}": value for name, value in counts.items()}
    return Outcome(outputs, figures)


def pair_up(sampled: Sequence[Sampled], reads: Reads) -> tuple[list[Candidate], dict[str, int]]:
    """Every two usable samples of a prompt as a pair, each sample in one; counts of samples that were cut off or have
    nothing to read, and of pairs that read the same."""
    candidates, num_unusable, num_equal = [], 0, 0
    for s in sampled:
        read = [(c.text, "" if c.clipped else readable(c.text, s.prompt, reads)) for c in s.completions]
        usable = [(text, part) for text, part in read if part.strip()]
        num_unusable += len(read) - len(usable)
        for number, ((first, one), (second, other)) in enumerate(zip(usable[::2], usable[1::2], strict=False)):
            if one.split() == other.split():
                num_equal += 1
                continue
            name = f"{s.example.id}/{number}"
            candidates.append(Candidate(name, s.example.prompt, s.prompt, first, second, source_of(s.example)))
    return candidates, {"unusable": num_unusable, "equal": num_equal}


def to_label(sampled: Sequence[Sampled]) -> list[Reply]:
    """Every sample that was not cut off."""
    return [
        Reply(f"{s.example.id}/{number}", s.example.prompt, s.prompt, completion.text, source_of(s.example))
        for s in sampled
        for number, completion in enumerate(s.completions)
        if not completion.clipped and completion.text.strip()
    ]


def _sample(context: StageContext) -> dict[str, list[Sampled]]:
    """Samples for what the stage makes, by one engine; what is on disk is not sampled again."""
    settings = context.settings
    config = sampling_config(context, settings.model, {**settings.run, "reward": UNGRADED})
    wanted = {"helpful": settings.helpful, "safety": settings.safety}
    samplings = {
        name: ProblemSampling(
            context, config, read_problems(source.problems, config, need_answer=False), source.sampling, name=name
        )
        for name, source in wanted.items()
        if source is not None
    }
    missing = [sampling for sampling in samplings.values() if sampling.missing]
    if missing:
        with Sampler(config, stop=context.stop, say=context.say, swappable=False) as sampler:
            for sampling in missing:
                context.say(f"{sampling.name}: responses to {len(sampling.missing)} prompts")
                sampling.run(sampler)
    return {name: sampling.results() for name, sampling in samplings.items()}


def _shown(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {round(value, 2)}" for name, value in counts.items())
