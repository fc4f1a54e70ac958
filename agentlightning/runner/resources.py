"""The resources that a runner has seen, so that the store need not send them with every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.litagent.litagent import MissingResourceError
from agentlightning.types import NamedResources, ResourcesUpdate, Rollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

_MOST_KEPT = 16


class ResourcesCache:
    """Sets of resources as they came with claims.

    A claim brings every set that its rollouts name and that the runner does not know in its current version. So a set
    that is here and did not come along is current. A store that sends none with its claims leaves this empty, and
    every rollout asks it.
    """

    def __init__(self) -> None:
        self._sets: dict[str, ResourcesUpdate] = {}

    def known(self) -> list[tuple[str, int]]:
        """Returns `(resources_id, version)` of each set that is here."""
        return [(update.resources_id, update.version) for update in self._sets.values()]

    def take(self, updates: Sequence[ResourcesUpdate]) -> None:
        """Keeps sets that came with a claim."""
        for update in updates:
            self._sets.pop(update.resources_id, None)
            self._sets[update.resources_id] = update
        while len(self._sets) > _MOST_KEPT:
            del self._sets[next(iter(self._sets))]

    async def resources_for(self, rollout: Rollout, store: LightningStore) -> NamedResources:
        """Returns a copy of the resources of a rollout, for the agent to do with as it likes.

        Raises:
            MissingResourceError: The store does not have them.
        """
        if rollout.resources_id is not None:
            update = self._sets.get(rollout.resources_id) or await store.get_resources_by_id(rollout.resources_id)
            if update is None:
                raise MissingResourceError(f"the store has no resources {rollout.resources_id}")
        else:
            update = await store.get_latest_resources()
            if update is None:
                raise MissingResourceError(
                    "the store holds no resources: publish some before rollouts run, with store.add_resources({...}) "
                    "or runner.step(..., resources={...}); an empty mapping will do for an agent that needs none"
                )
        return {name: resource.model_copy(deep=True) for name, resource in update.resources.items()}
