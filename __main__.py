"""The command `bandlens`. Signals are obeyed before anything that takes time is imported."""

from __future__ import annotations

import os
import sys

from .app import signals


def main() -> None:
    """Run the command line; once interrupted, exit with 128 and the number of the signal: 130 for Ctrl-C."""
    signals.obey()
    try:
        from .app.cli import main
        from .calls import stuck

        main()
    except BaseException as error:
        if signals.interrupted():
            sys.exit(signals.tell())
        if isinstance(error, SystemExit) and stuck():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.code if isinstance(error.code, int) else bool(error.code))
        raise


if __name__ == "__main__":
    main()
