"""Makes the helpers of this folder importable by plain names."""

from __future__ import annotations

import sys
from pathlib import Path

from networks import gpu_checks, rtx  # noqa: F401 - fixtures

sys.path.insert(0, str(Path(__file__).parent))
