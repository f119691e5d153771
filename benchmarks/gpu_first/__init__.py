"""Stages of a first meeting with a GPU."""

import _checkout  # noqa: F401 - before anything of bandlens
