"""Tests of training, which need PyTorch: `make test-train` runs them in an environment of their own."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = []
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob.append("test_*.py")
elif importlib.util.find_spec("verl") is None:  # it has no release for each Python that PyTorch has one for
    collect_ignore_glob.append("test_verl_*.py")
