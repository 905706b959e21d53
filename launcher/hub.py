"""Owns uploads to the Hugging Face hub: `zeroq push`, and `hub.push_to` of a run, in the launcher and beside training.

    checkpoints/step-N ── hard links of what a user needs, and a model card ── upload_folder ── NAMESPACE/NAME

The learner may remove an old checkpoint while it is uploaded: hence the links. What can pass (5xx, 429, a lost
connection) is tried again; a failed upload never ends a run, is said with the command that repeats it, and loses
nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import HubSection
from common.errors import EXIT_OK, RunFailure, UserError, ZeroqError
from common.lifecycle import RunPaths, write_atomic
from launcher.model_card import model_card
from recipes.model_files import locate_model

ATTEMPTS = 4
FIRST_WAIT_S = 1.0
POLL_S = 2.0
_STATE = "hub.json"
_NOT_UPLOADED = ("trainer", "manifest.json")
"""Of a checkpoint: what only goes on training from it (learner/checkpoint.py)."""


@dataclass(frozen=True)
class Target:
    """Where to: a repository (made if need be), its visibility when made, and a branch (None: main)."""

    repo: str
    private: bool = False
    revision: str | None = None


def check_hub(settings: HubSection) -> None:
    """UserError when `hub.push_to` is set and there is no token; nothing is asked of the network."""
    if settings.push_to is not None and _token() is None:
        raise UserError(
            f"hub.push_to={settings.push_to}: no Hugging Face token; set HF_TOKEN or run `hf auth login`, or leave "
            "hub.push_to out"
        )


def push_model(folder: Path, target: Target, *, run: RunPaths | None = None, message: str | None = None) -> str:
    """Upload the model in `folder` with a card made from `run`; returns the commit's address.

    A README.md of the folder's own is kept. UserError for what another try cannot mend (no token, no right, no valid
    name), RunFailure after ATTEMPTS tries of what it could.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if (token := _token()) is None:
        raise UserError(f"push to {target.repo}: no Hugging Face token; set HF_TOKEN or run `hf auth login`")
    disable_progress_bars()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    step = _step(folder)
    with _upload_copy(folder) as copy:
        if not (copy / "README.md").exists():
            (copy / "README.md").write_text(model_card(target.repo, run, step), encoding="utf-8")

        def upload() -> str:
            api.create_repo(target.repo, private=target.private or None, exist_ok=True)
            if target.revision is not None:
                api.create_branch(target.repo, branch=target.revision, exist_ok=True)
            said = message or (f"step {step}" if step else "model")
            done: Any = api.upload_folder(
                repo_id=target.repo, folder_path=copy, revision=target.revision, commit_message=f"zeroq: {said}"
            )
            return str(done.commit_url)

        return _with_retries(upload, target.repo)


def _with_retries(upload: Callable[[], str], repo: str) -> str:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wait_s = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return upload()
        except HFValidationError as error:
            raise UserError(f"push to {repo}: {_first(error)}") from None
        except Exception as error:  # the client, its transport and xet each have their own
            cause = _cause(error)
            status = getattr(cause.response, "status_code", 0) if isinstance(cause, HfHubHTTPError) else 0
            if 400 <= status < 500 and status not in (408, 429):
                remedy = (
                    "the token is not valid, or may not write there" if status in (401, 403) else "nothing was pushed"
                )
                raise UserError(f"push to {repo}: refused with {status}: {_first(cause)} ({remedy})") from None
            if attempt == ATTEMPTS:
                reason = f"{type(cause).__name__}: {_first(cause)}"
                raise RunFailure(f"push to {repo}: failed {ATTEMPTS} times, last by {reason}") from None
            time.sleep(wait_s)
            wait_s *= 3
    raise AssertionError("every way out of the loop is above")


@contextlib.contextmanager
def _upload_copy(folder: Path) -> Iterator[Path]:
    """A directory beside `folder` with what is uploaded of it, as hard links (copies where links cannot be made)."""
    parent = folder.resolve().parent
    place = parent if os.access(parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".push-", dir=place) as name:
        copy = Path(name)
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            if not path.is_file() or hidden or relative.parts[0] in _NOT_UPLOADED:
                continue
            (copy / relative).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), copy / relative)
            except OSError:
                shutil.copy2(path, copy / relative)
        yield copy


class CheckpointPusher:
    """Uploads a run's checkpoints as its `hub` section says. A context manager around training; `finish` at its end."""

    def __init__(self, settings: HubSection, paths: RunPaths, *, say: Callable[[str], object] | None = None) -> None:
        self._settings, self._paths = settings, paths
        self._say = say or (lambda note: print(f"note: {note}", file=sys.stderr, flush=True))
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._pushed = self._tried = int(_read_state(paths).get("step", -1))

    def __enter__(self) -> CheckpointPusher:
        for left in self._paths.checkpoints.glob(".push-*"):  # by a launcher that was killed; the run is locked
            shutil.rmtree(left, ignore_errors=True)
        if self._settings.push_to is not None and self._settings.every_checkpoint:
            self._thread = threading.Thread(target=self._follow, name="hub", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def finish(self) -> None:
        """Push the last checkpoint, unless that is done; waits for an upload that is under way. Never raises."""
        if self._settings.push_to is None:
            return
        self._end.set()
        if self._thread is not None:
            self._thread.join()  # bounded: each request has its time-out, and tries are counted
        newest = newest_checkpoint(self._paths)
        if newest is not None and self._pushed != _step(newest):
            self._push(newest)

    def _follow(self) -> None:
        while not self._end.wait(POLL_S):
            newest = newest_checkpoint(self._paths)
            if newest is not None and (_step(newest) or 0) > self._tried:
                self._push(newest)

    def _push(self, folder: Path) -> None:
        repo, step = str(self._settings.push_to), _step(folder)
        self._tried = step or 0
        try:
            target = Target(repo, self._settings.private, self._settings.revision)
            address = push_model(folder, target, run=self._paths)
            self._pushed = step or 0
            write_atomic(self._paths.root / _STATE, json.dumps({"step": step, "commit": address}) + "\n")
            print(f"pushed step {step}: {address}", flush=True)
        except (ZeroqError, OSError) as error:
            self._say(f"{error}; training is not affected, repeat it with: zeroq push {self._paths.root} {repo}")


def newest_checkpoint(paths: RunPaths) -> Path | None:
    """The checkpoint of the highest step; None when there is none."""
    found = [path for path in paths.checkpoints.glob("step-*") if _step(path) is not None and path.is_dir()]
    return max(found, key=lambda path: _step(path) or 0, default=None)


def push_from_options(options: argparse.Namespace) -> int:
    """`zeroq push MODEL_OR_RUN REPO`; returns the exit code."""
    folder, run = resolve(options.model)
    print(f"pushing {folder} to {options.repo}", flush=True)
    print(push_model(folder, Target(options.repo, options.private, options.revision), run=run))
    return EXIT_OK


def resolve(name: str) -> tuple[Path, RunPaths | None]:
    """(model directory, run that made it) of a model, checkpoint or run directory. UserError for anything else."""
    path = Path(name).expanduser()
    if not path.is_dir():
        raise UserError(f"{name}: no such directory; give a model, a checkpoint or a run")
    if (path / "config.yaml").is_file() and not (path / "config.json").is_file():
        newest = newest_checkpoint(RunPaths(path))
        if newest is None:
            raise UserError(f"{path}: this run has no checkpoint yet; wait for one, or push another directory")
        return newest, RunPaths(path.resolve())
    folder = locate_model(str(path))
    above = folder.resolve().parents
    owner = above[1] if len(above) > 1 and above[0].name == "checkpoints" else None
    return folder, RunPaths(owner) if owner is not None and (owner / "config.yaml").is_file() else None


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _step(folder: Path) -> int | None:
    number = folder.name.removeprefix("step-")
    return int(number) if folder.name.startswith("step-") and number.isdigit() else None


def _read_state(paths: RunPaths) -> dict[str, Any]:
    try:
        found = json.loads((paths.root / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _cause(error: BaseException) -> BaseException:
    """What went wrong underneath: the client wraps the errors of its upload threads."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:240] or type(error).__name__
