"""A process of a pool for tests: `fake_room.py RECORD NAME MODE`; RECORD gets a line for each thing that happens.

serve     until SIGTERM, then exit 0          crash     exit 3 at once
finish    exit 0 at once                      stubborn  ignore SIGTERM
refuse    print a user's error and exit 2     family    serve, with a grandchild in a session of its own
"""

import os
import signal
import subprocess
import sys
import time


def main() -> None:
    """Play the part."""
    record, name, mode = sys.argv[1:4]

    def tell(what: str) -> None:
        with open(record, "a", encoding="utf-8") as file:
            file.write(f"{name} {what} {os.getpid()}\n")

    def leave(signum: int, _frame: object) -> None:
        tell(signal.Signals(signum).name)
        if mode != "stubborn":
            sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    tell("started")
    if mode == "crash":
        print("about to crash: the disk of fake-room is on fire", flush=True)
        sys.exit(3)
    if mode == "refuse":
        print("error: learner.lr is not to my taste; choose another", file=sys.stderr, flush=True)
        sys.exit(2)
    if mode == "finish":
        sys.exit(0)
    if mode == "family":
        child = subprocess.Popen(
            [sys.executable, __file__, record, f"{name}-child", "stubborn"], start_new_session=True
        )
        tell(f"parent-of {child.pid}")
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
