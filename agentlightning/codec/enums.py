"""The API's words as enum values of the contract."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar, cast, get_args

from agentlightning.codec.errors import CodecError
from agentlightning.types import AttemptStatus, FailureKind, RolloutMode, RolloutStatus, WorkerStatus
from lightning_store import v1

Word = TypeVar("Word", bound=str)
Number = TypeVar("Number", bound=int)
Number_co = TypeVar("Number_co", bound=int, covariant=True)


class _Enum(Protocol[Number_co]):
    def Value(self, name: str) -> Number_co: ...  # noqa: N802 - protobuf's name


class EnumTable(Generic[Word, Number]):
    """One enum of the contract with the words that the API has for its values."""

    def __init__(self, what: str, words: tuple[Word, ...], enum: _Enum[Number], prefix: str) -> None:
        self._what = what
        self._numbers: dict[str, Number] = {word: enum.Value(f"{prefix}_{word.upper()}") for word in words}
        self._words: dict[int, Word] = {self._numbers[word]: word for word in words}

    def number(self, word: Word) -> Number:
        """Returns the enum value of a word.

        Raises:
            ValueError: The API has no such word.
        """
        try:
            return self._numbers[word]
        except (KeyError, TypeError):
            raise ValueError(f"{self._what} must be one of {', '.join(self._numbers)}, not {word!r}") from None

    def word(self, number: int) -> Word:
        """Returns the word for an enum value.

        Raises:
            CodecError: This release has no word for it.
        """
        try:
            return self._words[number]
        except KeyError:
            raise CodecError(f"{self._what} has the value {number}, which this release does not know") from None


ROLLOUT_STATUS = EnumTable(
    "rollout status",
    cast("tuple[RolloutStatus, ...]", get_args(RolloutStatus)),
    v1.RolloutStatus,
    "ROLLOUT_STATUS",
)
ROLLOUT_MODE = EnumTable(
    "rollout mode",
    cast("tuple[RolloutMode, ...]", get_args(RolloutMode)),
    v1.RolloutMode,
    "ROLLOUT_MODE",
)
ATTEMPT_STATUS = EnumTable(
    "attempt status",
    cast("tuple[AttemptStatus, ...]", get_args(AttemptStatus)),
    v1.AttemptStatus,
    "ATTEMPT_STATUS",
)
FAILURE_KIND = EnumTable(
    "failure kind",
    cast("tuple[FailureKind, ...]", get_args(FailureKind)),
    v1.AttemptFailureKind,
    "ATTEMPT_FAILURE_KIND",
)
WORKER_STATUS = EnumTable(
    "worker status",
    cast("tuple[WorkerStatus, ...]", get_args(WorkerStatus)),
    v1.WorkerStatus,
    "WORKER_STATUS",
)
