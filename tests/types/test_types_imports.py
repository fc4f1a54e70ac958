from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["agentlightning.types", "agentlightning.store.base"])
def test_importing_the_types_brings_neither_grpc_nor_opentelemetry(module: str) -> None:
    heavy = ["grpc", "google.protobuf", "opentelemetry", "jinja2", "poml"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
