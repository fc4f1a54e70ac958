"""Lets the tests of adapters use the model endpoint of the framework's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "framework"))
