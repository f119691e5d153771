"""Run chosen tests again and again while other processes keep the machine busy.

    python tests/support/busy.py --times 30 --load 4 tests/processes/test_gate.py -k killed

Every other word goes to pytest. It ends at the first run that fails, whose output it prints.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SPIN = "while True: pass"


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes compute while the block lasts."""
    spinning = [subprocess.Popen([sys.executable, "-I", "-S", "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def repeat(words: list[str], times: int) -> int:
    """Run pytest with these words so many times; gives how many runs passed before one failed."""
    for number in range(times):
        started = time.monotonic()
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(result.stdout, result.stderr)
            return number
        print(f"{number + 1}: {time.monotonic() - started:.0f} s", flush=True)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30, help="runs (default 30)")
    parser.add_argument("--load", type=int, default=4, help="busy processes beside them (default 4)")
    options, words = parser.parse_known_args()
    with load(options.load):
        passed = repeat(words, options.times)
    print(f"passed {passed} of {options.times} times beside {options.load} busy processes: {' '.join(words)}")
    sys.exit(passed < options.times)


if __name__ == "__main__":
    main()
