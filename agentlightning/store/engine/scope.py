"""What a rule works with."""

from __future__ import annotations

from dataclasses import dataclass

from agentlightning.store.storage.rows import ExperimentRow
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Tx


@dataclass(frozen=True)
class SpanBound:
    """How many bytes of spans a store keeps before it drops those of finished rollouts, the oldest first."""

    evict_above: int
    """Bytes of spans above which it starts to drop."""
    evict_down_to: int
    """Bytes of spans at which it stops to drop."""


@dataclass(slots=True)
class Scope:
    """One transaction on one experiment at one moment."""

    tx: Tx
    experiment: ExperimentRow
    now: int
    """Nanoseconds since the epoch; never goes back while the server runs."""
    span_bound: SpanBound | None = None

    def next_change(self) -> int:
        """Return the number of the next change in the experiment."""
        return self.tx.next_change(self.experiment)

    def signal(self, topic: str, name: str = "", value: int = 1) -> None:
        """Wake those who wait for something, once this transaction is committed."""
        self.tx.signals.append(Signal(topic, self.experiment.key, name, value))
