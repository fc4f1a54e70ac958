"""The rules of `StoreService`, and how a call finds its experiment."""

from __future__ import annotations

from agentlightning.store.api import DEFAULT_EXPERIMENT
from agentlightning.store.engine import messages
from agentlightning.store.engine.paging import collect, start_query
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.validation import check_id
from agentlightning.store.errors import NotFound
from agentlightning.store.storage.queries import Query
from agentlightning.store.storage.rows import END_OF_TIME, ExperimentRow
from agentlightning.store.storage.schema import EXPERIMENTS
from agentlightning.store.storage.signals import EVERYBODY, Signal
from agentlightning.store.storage.tx import Tx
from lightning_store import v1


def experiment_not_found(name: str) -> NotFound:
    """Return the error for an experiment that does not exist."""
    return NotFound(
        f"Experiment {name} not found; the first write to an experiment creates it.",
        reason="EXPERIMENT_NOT_FOUND",
        metadata={"experiment": name},
    )


def existing(tx: Tx, name: str) -> ExperimentRow:
    """Return an experiment, or raise."""
    row = tx.experiment(name)
    if row is None:
        raise experiment_not_found(name)
    return row


def check_same(row: ExperimentRow, key: int | None) -> None:
    """Raise if a long call began with another experiment of this name, which has been deleted since.

    Args:
        row: The experiment that has the name now.
        key: The one that the call began with; None at its beginning.
    """
    if key is not None and row.key != key:
        raise experiment_not_found(row.name)


def ensure(tx: Tx, name: str, now: int) -> ExperimentRow:
    """Return an experiment, a new one if there is none of this name."""
    row = tx.experiment(name)
    if row is None:
        row = ExperimentRow(0, check_id(name, "experiment"), now, None, 0)
        tx.add_experiment(row)
    return row


def names(tx: Tx) -> dict[int, str]:
    """Return the names of all experiments by their keys."""
    return {row.key: row.name for row, _ in tx.experiments(Query(limit=END_OF_TIME))}


def statistics(scope: Scope, request: v1.GetStatisticsRequest) -> v1.GetStatisticsResponse:
    """Return the totals of an experiment."""
    tallies = scope.tx.tallies(scope.experiment.key)
    by_status = [
        v1.RolloutStatusCount(status=status, count=count)
        for status in v1.RolloutStatus.values()
        if (count := tallies.get(f"rollouts.{status}", 0))
    ]
    return v1.GetStatisticsResponse(
        total_rollouts=sum(entry.count for entry in by_status),
        total_attempts=tallies.get("attempts", 0),
        total_spans=tallies.get("spans", 0),
        total_resources=tallies.get("resources", 0),
        total_workers=tallies.get("workers", 0),
        rollouts_by_status=by_status,
        total_span_bytes=tallies.get("span_bytes", 0),
        eviction_threshold_bytes=scope.span_bound.evict_above if scope.span_bound else 0,
        safe_threshold_bytes=scope.span_bound.evict_down_to if scope.span_bound else 0,
        evicted_spans=tallies.get("evicted_spans", 0),
    )


def list_experiments(tx: Tx, request: v1.ListExperimentsRequest) -> v1.ListExperimentsResponse:
    """Return a page of experiments."""
    query = start_query(request, EXPERIMENTS, "created")
    found, page_info = collect(request, query, tx.experiments(query), messages.experiment)
    if request.page.with_total_size:
        page_info.total_size = tx.total(EXPERIMENTS, query)
    return v1.ListExperimentsResponse(experiments=found, page_info=page_info)


def delete(tx: Tx, request: v1.DeleteExperimentRequest, now: int) -> v1.DeleteExperimentResponse:
    """Delete an experiment with everything in it; the default one is there again at once, empty."""
    row = existing(tx, request.name)
    tx.delete_experiment(row)
    if row.name == DEFAULT_EXPERIMENT:
        ensure(tx, row.name, now)
    tx.signals.append(Signal("experiment", row.key, value=EVERYBODY))
    return v1.DeleteExperimentResponse()
