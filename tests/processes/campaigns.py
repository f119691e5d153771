"""The command line of a campaign: how often it tries what, from which seed on, and the table that it prints."""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping


def run_campaign(
    description: str | None, campaign: Callable[..., Counter[str]], trials: Mapping[str, tuple[int, str]]
) -> Counter[str]:
    """Run a campaign as the command line says, which calls it with the seed and a number for each kind of trial.

    `trials` has the usual number of each kind, and what one is; `description` is the help.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (usual, meaning) in trials.items():
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"{meaning} (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first trial (default %(default)s)")
    numbers = vars(parser.parse_args())
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, commands that are sent one would ignore it
    print(f"seeds: from {numbers['seed']} on", flush=True)
    start = time.monotonic()
    counts = campaign(**numbers)
    for name, count in sorted(counts.items()):
        print(f"{count:6}  {name}")
    print(f"{counts.total():6}  in {time.monotonic() - start:.0f} s")
    return counts
