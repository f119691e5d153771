"""The logger of the package. The command line prints its records to standard error."""

from __future__ import annotations

import logging

log = logging.getLogger("bandlens")
"""Logger for notes, warnings and errors, one line each."""
