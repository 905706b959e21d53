"""Owns the stage that makes the CPU pipeline's world: two small models, problems, corpora, preferences."""

from __future__ import annotations

import shutil
from pathlib import Path

from common.errors import EXIT_USER_ERROR, RunFailure, UserError
from launcher.helper import run_module
from launcher.stages import Outcome, StageContext

_TIMEOUT_S = 900.0


def make_world(context: StageContext) -> Outcome:
    """Write models and data, in another process (torch is large); half a world is made anew."""
    folder = context.folder / "world"
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--seed", str(context.seed), "--scale", str(context.settings.scale)]
    done = run_module("recipes.small_world", str(folder), *options, timeout_s=_TIMEOUT_S)
    context.check_stop()
    if done.returncode == EXIT_USER_ERROR:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    if done.returncode != 0:
        raise RunFailure(f"making the world failed:\n{done.stderr.strip()[-2000:]}")
    outputs = {
        name: Path(path) for name, _, path in (line.partition("\t") for line in done.stdout.splitlines()) if path
    }
    context.say(f"{len(outputs)} files and models in {folder}")
    return Outcome(outputs, {"files": len(outputs)})
