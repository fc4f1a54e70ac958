"""What older releases have and this one leaves out says what takes its place."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentlightning
from agentlightning import VERL, InMemoryLightningStore, LightningStoreServer, LLMProxy
from agentlightning.removed import REMOVED, describe_removed

PACKAGE = Path(agentlightning.__file__).parent
# Of the command line; tests/cli has them refused.
WORDS = sorted(name for name in REMOVED if name.startswith("agl "))
ARGUMENTS = sorted(name for name in REMOVED if "(" in name)
FUNCTIONS = {name for name in REMOVED if name.startswith("agentlightning.llm_proxy.")}
NAMES = sorted(FUNCTIONS | {name for name in REMOVED if "(" not in name and name.rpartition(".")[2][0].isupper()})
MODULES = sorted(set(REMOVED) - set(ARGUMENTS) - set(NAMES) - set(WORDS))
MAKERS: dict[str, Callable[..., Any]] = {
    "LLMProxy": lambda **given: LLMProxy(**{name: [it] if name == "callbacks" else it for name, it in given.items()}),
    "InMemoryLightningStore": InMemoryLightningStore,
    "VERL": lambda **given: VERL({}, **given),
    "LightningStoreServer": lambda **given: LightningStoreServer(InMemoryLightningStore(), port=0, **given),
}


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_that_is_left_out_names_the_successor(module: str) -> None:
    for _ in range(2):
        with pytest.raises(ImportError) as refused:
            importlib.import_module(module)
        assert str(refused.value) == describe_removed(module)
        assert refused.value.name == module


def test_importing_what_was_inside_of_such_a_module_does_too() -> None:
    with pytest.raises(ImportError, match="SqliteLightningStore"):
        from agentlightning.store.mongo import MongoLightningStore  # noqa: F401
    with pytest.raises(ImportError, match="InMemoryLightningStore"):
        importlib.import_module("agentlightning.store.collection.memory")
    with pytest.raises(ImportError, match="OtelTracer"):
        from agentlightning.tracer.weave import WeaveTracer  # noqa: F401


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_left_out_names_the_successor(name: str) -> None:
    package, _, attribute = name.rpartition(".")
    with pytest.raises(ImportError) as refused:
        exec(f"from {package} import {attribute}", {})
    assert str(refused.value) == describe_removed(name)
    with pytest.raises(ImportError, match=re.escape(REMOVED[name].successor)):
        getattr(importlib.import_module(package), attribute)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_is_left_out_names_the_successor(name: str) -> None:
    owner, _, argument = name.removesuffix(")").partition("(")
    keyword, _, value = argument.partition("=")
    given: dict[str, Any] = {keyword: value.strip("'") or object()}
    with pytest.raises(ValueError, match="is not supported") as refused:
        MAKERS[owner](**given)
    assert str(refused.value) == describe_removed(name)


def test_every_message_says_what_to_use_and_where_to_read_on() -> None:
    for name, removed in REMOVED.items():
        assert describe_removed(name).startswith(name)
        assert f"Use {removed.successor}; see docs/migration.md." in describe_removed(name)


def test_the_migration_page_names_all_that_is_left_out() -> None:
    page = (PACKAGE.parent / "docs" / "migration.md").read_text(encoding="utf-8")
    for name in REMOVED:
        assert name.removeprefix("agentlightning.") in page, name


def test_every_stub_stands_in_the_table() -> None:
    stubs = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "raise_if_removed(__name__)" in path.read_text(encoding="utf-8")
    }
    assert stubs == set(MODULES)
