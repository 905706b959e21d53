"""Hosts a pool of fake rooms as `zeroq run` does, for tests that kill or interrupt the host: `pool_host.py DIR`."""

import sys
import time
from pathlib import Path

from common.errors import EXIT_INTERRUPTED
from common.lifecycle import RunPaths, StopFlag
from launcher.pool import Pool
from launcher.processes import ProcessRole, ProcessSpec

ROOM = str(Path(__file__).with_name("fake_room.py"))


def spec(record: Path, name: str, role: ProcessRole, mode: str, max_restarts: int = 0) -> ProcessSpec:
    """A fake process."""
    return ProcessSpec(name, role, (sys.executable, ROOM, str(record), name, mode), max_restarts=max_restarts)


def main() -> int:
    """One process of each role, the actor with a family, until a signal comes."""
    paths = RunPaths(Path(sys.argv[1]))
    record = paths.root / "record"
    stop = StopFlag().install()
    with Pool(paths, lambda *_, **__: None) as pool:
        pool.start(
            [
                spec(record, "broker", "broker", "serve"),
                spec(record, "evaluator-0", "evaluator", "serve"),
                spec(record, "actor-0", "actor", "family"),
                spec(record, "learner", "learner", "serve"),
            ]
        )
        (paths.root / "up").touch()
        while not stop:
            pool.poll()
            time.sleep(0.02)
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
