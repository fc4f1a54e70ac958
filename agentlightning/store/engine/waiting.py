"""Those who wait for something to happen in the store, and how they are woken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

from agentlightning.store.errors import Unavailable
from agentlightning.store.storage.signals import Signal

Key = tuple[str, int, str]
"""What can be waited for: a topic, the experiment's key, and for `rollout` its id."""


class Waiters:
    """Wakes waiters of any thread and any event loop.

    A waiter subscribes first, looks at the store then, and waits only if it found nothing, so nothing is missed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[Key, dict[Subscription, None]] = {}
        self._closed = False

    def subscribe(self, keys: Iterable[Key]) -> Subscription:
        """Return a subscription of the running event loop, to be closed by its maker."""
        subscription = Subscription(self, keys)
        with self._lock:
            for key in subscription.keys:
                self._by_key.setdefault(key, {})[subscription] = None
            if self._closed:
                subscription.end()
        return subscription

    def unsubscribe(self, subscription: Subscription, keys: Iterable[Key]) -> None:
        """Take keys of a subscription off."""
        with self._lock:
            for key in keys:
                waiting = self._by_key.get(key)
                if waiting is not None:
                    waiting.pop(subscription, None)
                    if not waiting:
                        del self._by_key[key]

    def tell(self, signals: Iterable[Signal]) -> None:
        """Wake those who wait for what has happened."""
        with self._lock:
            for signal in signals:
                if signal.topic == "queue":
                    self._wake_some(("queue", signal.experiment, ""), signal.value)
                elif signal.topic == "everything":
                    for key in self._by_key:
                        if key[0] != "queue":
                            self._wake_all(key)
                elif signal.topic == "experiment":
                    for key in [key for key in self._by_key if key[1] == signal.experiment]:
                        self._wake_all(key)
                else:
                    self._wake_all((signal.topic, signal.experiment, signal.name))

    def pass_on(self, key: Key) -> None:
        """Wake the next waiter in the place of one that was woken and leaves without having taken anything."""
        with self._lock:
            self._wake_some(key, 1)

    def close(self) -> None:
        """End all waits, now and from now on, with `Unavailable`."""
        with self._lock:
            self._closed = True
            for waiting in list(self._by_key.values()):
                for subscription in waiting:
                    subscription.end()

    def _wake_all(self, key: Key) -> None:
        for subscription in self._by_key.get(key, ()):
            subscription.wake(key)

    def _wake_some(self, key: Key, count: int) -> None:
        """Wake `count` sleepers, those who wait longest first: one for each thing to take."""
        for subscription in self._by_key.get(key, ()):
            if count <= 0:
                return
            if not subscription.is_woken:
                subscription.wake(key)
                count -= 1


class Subscription:
    """One waiter."""

    def __init__(self, waiters: Waiters, keys: Iterable[Key]) -> None:
        self.keys = set(keys)
        self.is_woken = False
        """True from a wake-up until the waiter takes note of it."""
        self._waiters = waiters
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._fired: set[Key] = set()
        self._ended = False

    async def wait(self, timeout: float | None) -> set[Key]:
        """Return the keys that something happened to since the last call; none when the time is up.

        Args:
            timeout: Longest wait in seconds; None for ever.

        Raises:
            Unavailable: The store is shutting down.
        """
        is_late = False

        def ring() -> None:
            nonlocal is_late
            is_late = True
            self._event.set()

        # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes just after the wake-up.
        alarm = None if timeout is None else self._loop.call_later(timeout, ring)
        try:
            # The event may still ring for something that an earlier call has returned.
            while not (self._fired or self._ended or is_late):
                self._event.clear()
                await self._event.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
        if self._ended:
            raise Unavailable("The store is shutting down.", reason="SHUTTING_DOWN", retry_after=1.0)
        with self._waiters._lock:  # noqa: SLF001  one lock for both
            fired, self._fired = self._fired, set()
            self.is_woken = False
        return fired

    def drop(self, keys: Iterable[Key]) -> None:
        """Wait no more for some keys."""
        gone = set(keys) & self.keys
        self.keys -= gone
        self._waiters.unsubscribe(self, gone)

    def close(self) -> None:
        """Wait no more."""
        self.drop(set(self.keys))

    def wake(self, key: Key) -> None:
        """Take note of something; called under the lock, from any thread."""
        self._fired.add(key)
        if not self.is_woken:
            self.is_woken = True
            self._set()

    def end(self) -> None:
        """End the wait for good; called under the lock, from any thread."""
        self._ended = True
        self._set()

    def _set(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._event.set()
        elif not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._event.set)
            except RuntimeError:  # closed since: nobody waits any more
                return
