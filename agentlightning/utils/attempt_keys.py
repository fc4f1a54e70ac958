"""Keys by which the model gateway knows the attempt that calls it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final, TypeGuard

_RUN_PREFIX: Final = "agl-run-"
_ATTEMPT_PREFIX: Final = "agl-attempt-"


def new_run_key() -> str:
    """Returns a key for a run: it opens every attempt, and the keys of attempts are made of it."""
    return _RUN_PREFIX + secrets.token_urlsafe(24)


def is_run_key(key: str | None) -> TypeGuard[str]:
    """Returns whether a key is one of a run."""
    return key is not None and key.startswith(_RUN_PREFIX)


def attempt_key(run_key: str, rollout_id: str, attempt_id: str) -> str:
    """Returns the key that opens one attempt of a run and no other.

    Args:
        run_key: The key of the run, which cannot be found from the result.
        rollout_id: The rollout.
        attempt_id: Its attempt.
    """
    # The length of the first id keeps ("ab", "c") and ("a", "bc") apart.
    named = f"{len(rollout_id)}:{rollout_id}{attempt_id}".encode()
    digest = hmac.digest(run_key.encode(), named, hashlib.sha256)
    return _ATTEMPT_PREFIX + base64.urlsafe_b64encode(digest[:24]).decode()


def opens(shown: str | None, run_key: str, attempt: tuple[str, str] | None) -> bool:
    """Returns whether a key opens an attempt, or, for None, calls that belong to none."""
    expected = [run_key] if attempt is None else [run_key, attempt_key(run_key, *attempt)]
    given = (shown or "").encode()
    return any(hmac.compare_digest(given, key.encode()) for key in expected)
