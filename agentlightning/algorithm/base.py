"""The base class of algorithms."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from agentlightning.types import Dataset, NamedResources
from agentlightning.utils.callables import is_coroutine_callable

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.trainer.trainer import Trainer


class Algorithm:
    """An algorithm: override `run`, plain or async. The trainer hands it what the getters return.

    The trainer awaits an async `run` on its event loop. It calls a plain one in a thread of its own and hands it a
    `BlockingStore`, whose methods need no `await`.
    """

    # On the class, so that subclasses need not call __init__.
    _trainer_ref: weakref.ref[Trainer] | None = None
    _llm_proxy_ref: weakref.ref[Any] | None = None
    _adapter_ref: weakref.ref[Any] | None = None
    _store: LightningStore | None = None
    _initial_resources: NamedResources | None = None

    def is_async(self) -> bool:
        """Returns whether `run` is async."""
        return is_coroutine_callable(self.run)

    def set_trainer(self, trainer: Trainer) -> None:
        """Notes the trainer, without keeping it alive."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Trainer:
        """Returns the trainer.

        Raises:
            ValueError: There is none, or it is gone.
        """
        trainer = self._trainer_ref() if self._trainer_ref is not None else None
        if trainer is None:
            raise ValueError("Trainer has not been set for this algorithm.")
        return trainer

    def set_llm_proxy(self, llm_proxy: Any | None) -> None:
        """Notes the model gateway, without keeping it alive."""
        self._llm_proxy_ref = weakref.ref(llm_proxy) if llm_proxy is not None else None

    def get_llm_proxy(self) -> Any | None:
        """Returns the model gateway, or None where the trainer has none.

        Raises:
            ValueError: It is gone.
        """
        if self._llm_proxy_ref is None:
            return None
        llm_proxy = self._llm_proxy_ref()
        if llm_proxy is None:
            raise ValueError("The LLM proxy of this algorithm is gone.")
        return llm_proxy

    def set_adapter(self, adapter: Any) -> None:
        """Notes the adapter, without keeping it alive."""
        self._adapter_ref = weakref.ref(adapter)

    def get_adapter(self) -> Any:
        """Returns the adapter that turns spans into what the algorithm learns from.

        Raises:
            ValueError: There is none, or it is gone.
        """
        adapter = self._adapter_ref() if self._adapter_ref is not None else None
        if adapter is None:
            raise ValueError("Adapter has not been set for this algorithm.")
        return adapter

    def set_store(self, store: LightningStore) -> None:
        """Notes the store."""
        self._store = store

    def get_store(self) -> LightningStore:
        """Returns the store; in a plain algorithm that a trainer runs, a `BlockingStore`.

        Raises:
            ValueError: There is none.
        """
        if self._store is None:
            raise ValueError("Store has not been set for this algorithm.")
        return self._store

    def set_initial_resources(self, resources: NamedResources) -> None:
        """Notes the resources to start from."""
        self._initial_resources = resources

    def get_initial_resources(self) -> NamedResources | None:
        """Returns the resources to start from, or None."""
        return self._initial_resources

    def get_client(self) -> Any:
        """Deprecated: for algorithms of release 0.1, which override it to return their `AgentLightningClient`.

        Raises:
            NotImplementedError: It is not overridden.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no client of its own: runners meet algorithms at the store now; see get_store"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Does what `run` does."""
        return self.run(*args, **kwargs)

    def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> Any:
        """Trains. Override it, plain or async.

        Args:
            train_dataset: The samples to learn from.
            val_dataset: The samples to judge by.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override run")
