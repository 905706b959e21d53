"""`python -m recipes.small_world DIR`: write the whole small world, models included; one line a file, NAME<tab>PATH."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from recipes.small_world.model import create_small_model
from recipes.small_world.world import write_world


def main() -> int:
    """Parse the command line and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.small_world", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="directory to write; must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="sizes of data sets, at most 1 (default)")
    options = parser.parse_args()
    try:
        if options.folder.exists():
            raise UserError(f"{options.folder}: exists; name a directory that does not")
        files = write_world(options.folder, seed=options.seed, scale=options.scale)
        for size in ("base", "student"):
            files[size] = create_small_model(options.folder / size, size=size, seed=options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    for name, path in files.items():
        print(f"{name.rpartition('/')[2] if name.startswith('problems/') else name.replace('/', '_')}\t{path}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
