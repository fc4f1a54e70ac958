"""What importing costs, and what it offers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import agentlightning

HEAVY = ("grpc", "opentelemetry", "pydantic", "torch", "transformers", "asyncio")


def test_import_is_light() -> None:
    code = f"""
import sys, time
began = time.process_time()
import agentlightning
took = time.process_time() - began
assert took < 0.5, took
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_framework_loads_neither_grpc_nor_what_is_optional() -> None:
    code = """
import sys
from agentlightning import Trainer, LitAgent, LitAgentRunner, OtelTracer, emit_reward, algo, rollout
heavy = {"grpc", "httpx", "fastapi", "uvicorn", "openai", "opentelemetry.instrumentation", "openinference"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_exported_name_resolves() -> None:
    for name in agentlightning.__all__:
        assert getattr(agentlightning, name) is not None, name


def test_exports_for_type_checkers_are_those_at_run_time() -> None:
    tree = ast.parse(Path(agentlightning.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared: set[str] = set()
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        names = [alias.name for alias in statement.names]
        declared |= set(importlib.import_module(statement.module).__all__ if names == ["*"] else names)
    assert declared == set(agentlightning.__all__)


def test_dir_lists_what_can_be_had() -> None:
    assert set(agentlightning.__all__) <= set(dir(agentlightning))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = agentlightning.no_such_thing  # type: ignore[attr-defined]


def test_subpackages_are_attributes() -> None:
    code = "import agentlightning; assert agentlightning.litagent.LitAgent is agentlightning.LitAgent"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
