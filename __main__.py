"""The command `bandlens`. Signals are obeyed before anything that takes time is imported."""

from __future__ import annotations

import sys

from .app import signals


def main() -> None:
    """Run the command line; once interrupted, exit with 128 and the number of the signal: 130 for Ctrl-C."""
    signals.obey()
    try:
        from .app.cli import main

        main()
    except BaseException:
        if signals.interrupted():
            sys.exit(signals.tell())
        raise


if __name__ == "__main__":
    main()
