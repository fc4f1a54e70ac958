"""Cursors of watches: opaque to clients, bound to one store and one experiment."""

from __future__ import annotations

import base64
import json

from agentlightning.store.errors import FailedPrecondition, InvalidArgument, OutOfRange
from agentlightning.store.storage.rows import ExperimentRow


def encode(store_id: str, experiment: ExperimentRow, change_seq: int) -> str:
    """Return the cursor that stands after a change."""
    return base64.urlsafe_b64encode(json.dumps([store_id, experiment.key, change_seq]).encode()).decode()


def decode(cursor: str, store_id: str, experiment: ExperimentRow, last_change: int) -> int:
    """Return the number of the change that a cursor stands after; 0 for the empty cursor.

    Args:
        cursor: What the client sent.
        store_id: Identity of this store.
        experiment: The call's.
        last_change: Number of the last change in the experiment.

    Raises:
        InvalidArgument: It was never given by a store.
        FailedPrecondition: It belongs to another store or experiment.
        OutOfRange: Deletions after it are no longer remembered.
    """
    if not cursor:
        return 0
    of_store, of_experiment, change_seq = _parts(cursor)
    went_back = change_seq > last_change  # an older copy of the store was put in its place
    if of_store != store_id or of_experiment != experiment.key or went_back:
        raise FailedPrecondition(
            "The cursor belongs to another store or experiment.",
            reason="CURSOR_FOREIGN",
            metadata={"store_id": store_id, "experiment": experiment.name},
        )
    if change_seq < experiment.forgotten_seq:
        raise OutOfRange(
            "The cursor is from before the deletions that are still remembered: list again, then watch anew.",
            reason="CURSOR_EXPIRED",
        )
    return change_seq


def _parts(cursor: str) -> tuple[str, int, int]:
    try:
        store, experiment, change_seq = json.loads(base64.urlsafe_b64decode(cursor))
        if type(store) is not str or type(experiment) is not int or type(change_seq) is not int or change_seq < 0:
            raise ValueError("not the parts of a cursor")
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument("The cursor was not given by a store.", reason="CURSOR_INVALID") from error
    return store, experiment, change_seq
