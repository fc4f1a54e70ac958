"""Tests of training, which need PyTorch. `make test-train` and `make test-verl` run them in their own environments."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = []
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob.append("test_*.py")
elif importlib.util.find_spec("verl") is None:
    collect_ignore_glob.append("test_verl_*.py")
