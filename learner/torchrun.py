"""Torchrun for one generation of one machine's ranks: `python -m learner.torchrun TORCHRUN_ARGUMENTS`.

Torchrun itself, but for two things: it dies with the process that started it, however that dies, and it ends with 2
when a rank found its input wrong (torchrun says 1 to everything).
"""

from __future__ import annotations

import sys

from common.errors import EXIT_FAILURE, EXIT_OK, EXIT_USER_ERROR
from common.lifecycle import die_with_parent


def main(arguments: list[str]) -> int:
    """Run; returns the exit code."""
    die_with_parent()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        print(f"failed: ranks {sorted(error.failures)} ended with {sorted(codes)}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR if EXIT_USER_ERROR in codes else EXIT_FAILURE
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
