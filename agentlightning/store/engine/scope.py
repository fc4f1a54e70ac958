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
    changes: int = 0
    """Number of changes that this transaction has made."""

    def next_change(self) -> int:
        """Return the number of the next change in the experiment."""
        self.changes += 1
        self.experiment.change_seq += 1
        return self.experiment.change_seq

    def finish(self) -> None:
        """Write what concerns the experiment as a whole; the last act of the transaction."""
        if self.changes:
            self.tx.update_experiment(self.experiment, change_seq=self.experiment.change_seq)

    def signal(self, topic: str, name: str = "", value: int = 1) -> None:
        """Wake those who wait for something, once this transaction is committed."""
        self.tx.signals.append(Signal(topic, self.experiment.key, name, value))
