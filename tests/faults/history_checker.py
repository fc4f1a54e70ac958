"""Holds what clients were answered against what the store holds in the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

from calls import attempts, list_rollouts, spans
from history import Call

from agentlightning.store.api import StoreApi
from lightning_store import v1

FINISHED = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass
class Stored:
    """What a store holds when everybody has left."""

    rollouts: dict[str, str] = field(default_factory=dict)
    """Status of each rollout, in the order in which they were created."""
    attempts: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the attempts of each rollout, the first one first."""
    first_claims: list[int] = field(default_factory=list)
    """When each rollout that was claimed was claimed first, in the order in which they were created."""
    spans: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)
    """Attempt, span id and number of the spans of each rollout."""


async def read_store(api: StoreApi) -> Stored:
    """Return what a store holds."""
    stored = Stored()
    page = v1.Page(page_size=1000)
    while True:
        found = await list_rollouts(api, page)
        for rollout in found.rollouts:
            name = rollout.rollout_id
            stored.rollouts[name] = status_name(rollout.status)
            made = await attempts(api, name)
            stored.attempts[name] = [attempt.attempt_id for attempt in made]
            stored.first_claims += [attempt.start_time.ToNanoseconds() for attempt in made[:1]]
            stored.spans[name] = [
                (one.attempt_id, one.span_id.hex(), one.sequence_id) for one in await spans(api, name)
            ]
        if not found.page_info.next_page_token:
            return stored
        page.page_token = found.page_info.next_page_token


def status_name(status: v1.RolloutStatus.ValueType) -> str:
    """The name of a status without its prefix."""
    return v1.RolloutStatus.Name(status).removeprefix("ROLLOUT_STATUS_")


def violations(history: list[Call], stored: Stored) -> list[str]:
    """Return what the store has done wrong, one sentence each; none for a store that keeps its promises."""
    return [
        *_rollouts(history, stored),
        *_claims(history, stored),
        *_ends(history, stored),
        *_spans(history, stored),
        *_numbers(history),
        *_watches(history, stored),
    ]


def _calls(history: Iterable[Call], kind: str) -> list[Call]:
    return [call for call in history if call.kind == kind]


def _answered(history: Iterable[Call], kind: str) -> list[Call]:
    return [call for call in history if call.kind == kind and call.is_answered]


def _rollouts(history: list[Call], stored: Stored) -> Iterator[str]:
    asked = {name for call in _calls(history, "enqueue") for name in call.asked["names"]}
    answered = {name for call in _answered(history, "enqueue") for name in call.asked["names"]}
    for name in sorted(answered - stored.rollouts.keys()):
        yield f"{name}: its creation was answered, and it is not there"
    for name in sorted(stored.rollouts.keys() - asked):
        yield f"{name}: nobody asked for it"
    for name, status in stored.rollouts.items():
        if status not in FINISHED:
            yield f"{name}: it was left {status}"


def _claims(history: list[Call], stored: Stored) -> Iterator[str]:
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for call in _answered(history, "claim"):
        for name, attempt in call.answer:
            holders[name, attempt].add(call.asked["claim"])
            if attempt not in stored.attempts.get(name, ()):
                yield f"{name}: its attempt {attempt} was handed out, and it is not there"
    for (name, attempt), claims in holders.items():
        if len(claims) > 1:
            yield f"{name}: its attempt {attempt} was handed out to {' and '.join(sorted(claims))}"
    for name, found in stored.attempts.items():
        if len(set(found)) < len(found):
            yield f"{name}: an attempt is there twice"


def _ends(history: list[Call], stored: Stored) -> Iterator[str]:
    known: dict[str, tuple[float, str]] = {}  # since when each rollout was known to have ended, and how
    for call in _answered(history, "wait"):
        for name, status in call.answer.items():
            if status != stored.rollouts.get(name):
                yield f"{name}: it ended {status}, and is {stored.rollouts.get(name)}"
            known[name] = min(known.get(name, (call.ended, status)), (call.ended, status))
    for call in _answered(history, "claim"):
        for name, _ in call.answer:
            if name in known and call.began > known[name][0]:
                yield f"{name}: it was handed out after it had ended {known[name][1]}"
    for name, attempts_of in stored.attempts.items():
        reports = [call for call in _answered(history, "report") if call.asked["name"] == name]
        succeeded = {call.asked["attempt"] for call in reports if call.answer == "SUCCEEDED"}
        status = stored.rollouts.get(name)
        if attempts_of and attempts_of[-1] in succeeded and status != "SUCCEEDED":
            yield f"{name}: the success of its latest attempt was taken, and it is {status}"


def _spans(history: list[Call], stored: Stored) -> Iterator[str]:
    asked = {(call.asked["name"], span) for call in _calls(history, "spans") for span in call.asked["spans"]}
    held = {name: Counter(span for _, span, _ in found) for name, found in stored.spans.items()}
    numbers = {(name, span): number for name, found in stored.spans.items() for _, span, number in found}
    for call in _answered(history, "spans"):
        for span, number in zip(call.asked["spans"], call.answer, strict=True):
            name = call.asked["name"]
            if (name, span) not in numbers:
                yield f"{name}: its span {span} was taken, and it is not there"
            elif numbers[name, span] != number:
                yield f"{name}: its span {span} was given the number {number}, and has {numbers[name, span]}"
    for name, counts in held.items():
        for span, count in counts.items():
            if count > 1:
                yield f"{name}: its span {span} is there {count} times"
            if (name, span) not in asked:
                yield f"{name}: nobody sent its span {span}"


def _numbers(history: list[Call]) -> Iterator[str]:
    by_rollout: dict[str, list[Call]] = defaultdict(list)
    for call in _answered(history, "spans"):
        by_rollout[call.asked["name"]].append(call)
    for name, calls in by_rollout.items():
        given = Counter(number for call in calls for number in call.answer)
        for number, count in given.items():
            if count > 1:
                yield f"{name}: the number {number} was given to {count} spans"
        for one, other in combinations(calls, 2):
            first, second = (one, other) if one.ended < other.ended else (other, one)
            if first.ended < second.began and max(first.answer) >= min(second.answer):
                yield f"{name}: the number {min(second.answer)} was given after {max(first.answer)}"


def _watches(history: list[Call], stored: Stored) -> Iterator[str]:
    """Check what watchers were told; each `watch` is a message that was dealt with, its cursor the next beginning."""
    by_watcher: dict[str, list[Call]] = defaultdict(list)
    for call in _answered(history, "watch"):
        by_watcher[call.client].append(call)
    for client, calls in by_watcher.items():
        told: dict[str, str] = {}
        seen: set[tuple[str, str]] = set()
        for call in calls:
            for name, status, digest in call.answer:
                # An unfinished rollout can come back to what it was: a claim is made and handed back.
                if status in FINISHED and (name, digest) in seen:
                    yield f"{name}: {client} was told twice that it ended {status}"
                seen.add((name, digest))
                if told.get(name) in FINISHED and status != told[name]:
                    yield f"{name}: {client} was told that it ended {told[name]}, and then {status}"
                told[name] = status
        for name, status in stored.rollouts.items():
            if status in FINISHED and told.get(name) != status:
                yield f"{name}: {client} was not told that it ended {status}"
