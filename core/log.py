"""The logger of the package. The command line prints its records on standard error."""

from __future__ import annotations

import logging

log = logging.getLogger("bandlens")
"""Notes, warnings and errors, one line each."""
