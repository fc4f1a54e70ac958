"""The routes that the application describes."""

from __future__ import annotations

from agentlightning.rest.app import create_app
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.methods import METHODS

CONTRACT = [method.path for method in METHODS if not method.streams]
"""Those that are methods of the contract."""


def _others() -> list[tuple[str, str]]:
    store = InMemoryLightningStore()
    paths = create_app(store).openapi()["paths"]
    store.close_now()
    return [(path, verb) for path, verbs in paths.items() if path not in CONTRACT for verb in verbs]


OTHERS = _others()
"""Each other one, as its path and its verb."""
