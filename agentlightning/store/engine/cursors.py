"""Cursors of watches: opaque to clients, bound to one store and one experiment."""

from __future__ import annotations

import base64
import binascii
import json

from agentlightning.store.errors import FailedPrecondition, InvalidArgument, OutOfRange
from agentlightning.store.storage.rows import ExperimentRow


def encode(store_id: str, experiment: ExperimentRow, change_seq: int) -> str:
    """Return the cursor that stands after a change."""
    return base64.urlsafe_b64encode(json.dumps([store_id, experiment.key, change_seq]).encode()).decode()


def decode(cursor: str, store_id: str, experiment: ExperimentRow) -> int:
    """Return the number of the change that a cursor stands after; 0 for the empty cursor.

    Raises:
        InvalidArgument: It was never given by a store.
        FailedPrecondition: It belongs to another store or experiment.
        OutOfRange: Deletions after it are no longer remembered.
    """
    if not cursor:
        return 0
    try:
        of_store, of_experiment, change_seq = json.loads(base64.urlsafe_b64decode(cursor))
        change_seq = int(change_seq)
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidArgument("The cursor was not given by a store.", reason="CURSOR_INVALID") from error
    if of_store != store_id or of_experiment != experiment.key:
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
