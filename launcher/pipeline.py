"""Owns `zeroq pipeline`: stages one after the other, each skipped if it is done, continued if it was stopped.

    PIPELINE.yaml ── validate all stages ── for each: inputs by digest ── done? skip ── run ── manifest ── report

    runs/NAME/pipeline.yaml    the resolved configuration
    runs/NAME/stages/STAGE/    the stage's files; manifest.json is written last
    runs/NAME/report.html      rewritten after every stage; table.md and results.json at the end

A finished stage whose settings, inputs or outputs have changed since is not used: the command says what changed, and
`--redo STAGE` sets it and what depends on it aside (renamed, not deleted) and runs them again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.config_file import dump_config
from common.errors import EXIT_INTERRUPTED, EXIT_OK, RunFailure, UserError
from common.lifecycle import RunPaths, StopFlag
from launcher.display import clock
from launcher.pipeline_report import (
    append_result,
    final_rows,
    manifests,
    print_results,
    print_table,
    result_line,
    write_pipeline_report,
)
from launcher.ready import commit
from launcher.run_directory import locked
from launcher.stages import Interrupted, Outcome, StageContext, settings_of, stage_function
from launcher.stages.checks import check_stages
from recipes.pipeline.config import PipelineConfig, Stage, defaults_of, load_pipeline, read_preset
from recipes.pipeline.manifest import (
    Artefact,
    Manifest,
    artefact,
    changed_outputs,
    differences,
    read_manifest,
    write_manifest,
)
from recipes.pipeline.references import Reference, references, resolve

STAGES = "stages"
_TELLS_OTHERS = ("logging", "hub")  # settings that change nothing of what a stage makes


@dataclass(frozen=True)
class PipelineRequest:
    """What to run of a pipeline. `only`, `until`, `redo` name stages."""

    config_path: Path
    overrides: list[str]
    only: str | None = None
    until: str | None = None
    redo: str | None = None
    check: bool = False
    results: bool = False


def run_pipeline(request: PipelineRequest) -> int:
    """Run or continue the pipeline; returns the exit code."""
    config = load_pipeline(request.config_path, request.overrides)
    for option in ("only", "until", "redo"):
        name = getattr(request, option)
        if name is not None and name not in config.stages:
            raise UserError(f"--{option} {name}: no such stage; {request.config_path} has {', '.join(config.stages)}")
    check_stages(config)
    if request.results:
        return print_results(_results_file(config, request.config_path), Console())
    if request.check:
        _print_plan(config)
        return EXIT_OK
    paths = _directory(config, request)
    pipeline = Pipeline(config, paths, StopFlag().install(), _results_file(config, request.config_path))
    with locked(paths):
        dump_config(config, paths.root / "pipeline.yaml")
        if request.redo is not None:
            pipeline.set_aside(request.redo)
        return pipeline.run(_wanted(config, request))


class Pipeline:
    """The stages of one pipeline directory."""

    def __init__(self, config: PipelineConfig, paths: RunPaths, stop: StopFlag, results_file: Path) -> None:
        self.config, self.paths, self.stop, self.results_file = config, paths, stop, results_file
        self.console = Console()

    def folder(self, name: str) -> Path:
        """A stage's folder."""
        return self.paths.root / STAGES / name

    def run(self, wanted: Iterable[str]) -> int:
        """Run the stages `wanted` in order. RunFailure names the stage that failed; what is done stays."""
        names = list(wanted)
        began = time.monotonic()
        for number, name in enumerate(names, start=1):
            if self._is_done(name):
                self._say(f"[{number}/{len(names)}] {name}: done already")
                continue
            if self.stop:
                return self._stopped(name)
            self._say(f"[{number}/{len(names)}] {name} ({self.config.stage(name).kind})")
            try:
                self._run_stage(name)
            except Interrupted:
                return self._stopped(name)
            except UserError as error:
                raise UserError(f"stage {name}: {error}") from None
            except RunFailure as error:
                raise RunFailure(
                    f"stage {name}: {error}\nwhat is done is kept in {self.paths.root}; the same command goes on there"
                ) from None
            write_pipeline_report(self.config, self.paths)
        write_pipeline_report(self.config, self.paths)
        done = manifests(self.config, self.paths)
        if len(done) == len(self.config.stages) and final_rows(done):
            append_result(self.results_file, result_line(self.config, self.paths, done))
        print_table(self.paths, self.console)
        self._say(f"finished in {clock(time.monotonic() - began)}; report {self.paths.report}")
        return EXIT_OK

    def set_aside(self, name: str) -> None:
        """Rename the folders of a stage and of all that depend on it, so that they run anew."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for stage in self._dependents(name):
            folder = self.folder(stage)
            if folder.exists():
                target = folder.with_name(f".{stage}.before-{stamp}")
                folder.rename(target)
                self._say(f"{stage}: what was there is kept as {target}")

    def inputs(self, name: str) -> dict[str, Artefact]:
        """A stage's references with the files they stand for; UserError when an earlier stage has not made them."""
        return {str(ref): artefact(Path(self._lookup(ref))) for _, ref in references(settings_of(self._stage(name)))}

    def _run_stage(self, name: str) -> None:
        stage, folder = self._stage(name), self.folder(name)
        inputs = self.inputs(name)
        folder.mkdir(parents=True, exist_ok=True)
        settings = type(stage).model_validate(resolve(stage.model_dump(), self._lookup))
        context = StageContext(
            name,
            settings,
            self.config.defaults,
            folder,
            self.config.seed,
            self.stop,
            lambda text: self._say(f"  {text}"),
        )
        began = time.monotonic()
        outcome: Outcome = stage_function(stage.kind)(context)
        manifest = Manifest(
            stage=name,
            kind=stage.kind,
            seed=self.config.seed,
            settings=self._identity(stage),
            inputs=inputs,
            outputs={key: artefact(path) for key, path in outcome.outputs.items()},
            figures=dict(outcome.figures),
            seconds=round(time.monotonic() - began, 3),
            commit=commit(),
        )
        write_manifest(folder, manifest)
        self._say(f"  {name} done in {clock(manifest.seconds)}")

    def _is_done(self, name: str) -> bool:
        """Whether the stage has a manifest that holds; UserError when it has one that does not."""
        manifest = read_manifest(self.folder(name))
        if manifest is None:
            return False
        stage = self._stage(name)
        changes = changed_outputs(manifest) or differences(
            manifest, self._identity(stage), self.config.seed, self.inputs(name), defaults=defaults_of(stage)
        )
        if changes:
            more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
            raise UserError(
                f"stage {name} is done, but not as it would be run now: {'; '.join(changes[:3])}{more}; run it "
                f"and what depends on it again with --redo {name}, use another run.name, or undo the change"
            )
        return True

    def _identity(self, stage: Stage) -> dict[str, object]:
        """All settings that the stage depends on: its own and the defaults that its kind reads."""
        defaults = {
            section: {key: value for key, value in tree.items() if key not in _TELLS_OTHERS}
            for section, tree in self.config.defaults.model_dump().items()
        }
        sections: dict[str, tuple[str, ...]] = {
            "small_world": (),
            "grpo": ("run",),
            "sft": ("sft",),
            "cold_start": ("sft", "run", "sampling"),
            "reward_model": ("reward_model",),
            "rejection_sample": ("run", "sampling"),
            "preferences": ("run", "sampling"),
            "evaluate": ("run", "sampling"),
        }
        used = {section: defaults[section] for section in sections[stage.kind]}
        presets = {
            name: read_preset(value) for name, value in settings_of(stage).items() if name.endswith("preset") and value
        }
        return {**settings_of(stage), "defaults": used, "presets": presets}

    def _lookup(self, reference: Reference) -> str:
        manifest = read_manifest(self.folder(reference.stage))
        if manifest is None:
            raise UserError(f"{reference} is not there: the stage {reference.stage} is not done; run it first")
        if reference.output not in manifest.outputs:
            raise UserError(f"{reference}: the stage {reference.stage} made {', '.join(manifest.outputs) or 'nothing'}")
        return manifest.outputs[reference.output].path

    def _dependents(self, name: str) -> list[str]:
        """The stage and, in order, every later one that uses it, directly or through others."""
        found = [name]
        names = list(self.config.stages)
        for later in names[names.index(name) + 1 :]:
            used = {reference.stage for _, reference in references(settings_of(self._stage(later)))}
            if used & set(found):
                found.append(later)
        return found

    def _stage(self, name: str) -> Stage:
        return self.config.stage(name)

    def _stopped(self, name: str) -> int:
        self._say(f"stopped in stage {name}; the same command with run.name={self.paths.root.name} goes on there")
        return EXIT_INTERRUPTED

    def _say(self, text: str) -> None:
        print(text, flush=True)


def _directory(config: PipelineConfig, request: PipelineRequest) -> RunPaths:
    """The pipeline's directory; it exists when a pipeline is continued."""
    name = config.run.name or f"{request.config_path.stem}-seed{config.seed}"
    if "/" in name or name.startswith("."):
        raise UserError(f"run.name={name!r}: must be a plain directory name; set its parent with run.dir")
    root = Path(config.run.dir).expanduser().resolve() / name
    if (root / "config.yaml").exists():
        raise UserError(f"{root} is a run's directory, not a pipeline's; choose another run.name")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir={config.run.dir}: {error.strerror}: {error.filename}") from None
    return RunPaths(root)


def _results_file(config: PipelineConfig, config_path: Path) -> Path:
    """One for all pipelines of a configuration in a directory, whatever their seeds."""
    return Path(config.run.dir).expanduser().resolve() / f"{config_path.stem}.results.jsonl"


def _wanted(config: PipelineConfig, request: PipelineRequest) -> list[str]:
    names = list(config.stages)
    if request.only is not None:
        return [request.only]
    return names[: names.index(request.until) + 1] if request.until is not None else names


def _print_plan(config: PipelineConfig) -> None:
    for name in config.stages:
        stage = config.stage(name)
        used = sorted({str(reference) for _, reference in references(settings_of(stage))})
        print(f"{name} ({stage.kind})" + (f": from {', '.join(used)}" if used else ""))
