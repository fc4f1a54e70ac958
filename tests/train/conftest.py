"""Tests of training, which need PyTorch: `make test-train` runs them in an environment of their own."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
