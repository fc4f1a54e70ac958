from __future__ import annotations

import asyncio
import secrets

import pytest
from calls import (
    AT_FAILED,
    AT_PREPARING,
    AT_RUNNING,
    AT_SUCCEEDED,
    AT_TIMEOUT,
    AT_UNRESPONSIVE,
    CANCELLED,
    FAILED,
    HERE,
    PREPARING,
    REQUEUING,
    RUNNING,
    add_spans,
    attempt_of,
    claim,
    config,
    enqueue,
    fail,
    flat,
    get,
    key_of,
    list_spans,
    payload,
    queue,
    refused,
    report,
    span,
    span_names,
    spans,
    spans_request,
    start,
    start_attempt,
    statistics,
    status_of,
    update,
)
from stores import FakeClock, OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument, NotFound
from lightning_store import v1


def attribute(key: str, value: str) -> v1.KeyValue:
    return v1.KeyValue(key=key, value=v1.AnyValue(string_value=value))


def rich_span(attempt: v1.Attempt, **fields: object) -> v1.Span:
    return span(
        attempt,
        "call",
        number=7,
        parent_span_id=secrets.token_bytes(8),
        trace_state="a=b",
        kind=v1.SPAN_KIND_CLIENT,
        start_time_unix_nano=1_700_000_000_123_456_789,
        end_time_unix_nano=1_700_000_001_987_654_321,
        attributes=[
            attribute("text", "ü"),
            v1.KeyValue(key="none"),
            v1.KeyValue(
                key="list",
                value=v1.AnyValue(array_value=v1.ArrayValue(values=[v1.AnyValue(int_value=-(2**63)), v1.AnyValue()])),
            ),
            v1.KeyValue(key="bytes", value=v1.AnyValue(bytes_value=b"\0\xff")),
        ],
        events=[v1.SpanEvent(name="happened", time_unix_nano=5, attributes=[attribute("a", "b")])],
        links=[v1.SpanLink(trace_id=secrets.token_bytes(16), span_id=secrets.token_bytes(8), flags=3)],
        status=v1.SpanStatus(code=v1.SPAN_STATUS_CODE_ERROR, message="no"),
        flags=0x101,
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=3,
        generation=v1.Generation(
            prompt_token_ids=[1, 2, 3], response_token_ids=[4], response_logprobs=[-0.5], model="m", model_version="7"
        ),
        extra=payload({"more": [1, 2]}),
        **fields,
    )


class TestStoring:
    async def test_a_span_comes_back_as_it_was_sent(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        sent = rich_span(attempt)
        assert list((await add_spans(api, sent)).sequence_ids) == [7]
        assert await spans(api, "r1") == [sent]

    async def test_fields_of_a_later_otlp_are_kept(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        sent = span(attempt, number=1)
        newer = v1.Span.FromString(sent.SerializeToString() + bytes([42 << 3 & 0x7F | 0x80, 42 << 3 >> 7, 9]))
        await add_spans(api, newer)
        (back,) = await spans(api, "r1")
        assert back.SerializeToString() == newer.SerializeToString()
        assert back.SerializeToString() != sent.SerializeToString()

    async def test_resource_and_scope_come_back_with_their_spans(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        resources = [v1.SpanResource(attributes=[attribute("service.name", name)]) for name in ("one", "two")]
        scope = v1.InstrumentationScope(name="lib", version="1")
        request = v1.AddSpansRequest(
            resource_spans=[
                v1.ResourceSpans(
                    resource=resources[0],
                    schema_url="https://resource",
                    scope_spans=[
                        v1.ScopeSpans(
                            scope=scope,
                            schema_url="https://scope",
                            spans=[span(attempt, "a", number=1), span(attempt, "b", number=2)],
                        ),
                        v1.ScopeSpans(spans=[span(attempt, "d", number=4)]),
                    ],
                ),
                v1.ResourceSpans(
                    resource=resources[1],
                    scope_spans=[v1.ScopeSpans(scope=scope, spans=[span(attempt, "c", number=3)])],
                ),
            ]
        )
        assert list((await api.add_spans(HERE, request)).sequence_ids) == [1, 2, 4, 3]
        groups = (await list_spans(api, "r1")).resource_spans
        assert [[one.name for one in flat([group])] for group in groups] == [["a", "b"], ["c"], ["d"]]
        assert [group.resource for group in groups] == [resources[0], resources[1], resources[0]]
        assert groups[0].schema_url == "https://resource"
        assert (groups[0].scope_spans[0].scope, groups[0].scope_spans[0].schema_url) == (scope, "https://scope")
        assert not groups[2].scope_spans[0].HasField("scope")

    async def test_the_server_numbers_spans_and_keeps_given_numbers(self, api: StoreApi) -> None:
        """Goes wrong when numbers are counted for each attempt: spans of a retry come before those of the first."""
        first = await start(api, "r1")
        assert list((await add_spans(api, span(first), span(first))).sequence_ids) == [1, 2]
        assert list((await add_spans(api, span(first, number=10), span(first))).sequence_ids) == [10, 11]
        assert list((await add_spans(api, span(first, number=3), span(first))).sequence_ids) == [3, 12]
        second = await start_attempt(api, "r1")
        assert list((await add_spans(api, span(second), span(first))).sequence_ids) == [13, 14]
        assert [one.sequence_id for one in await spans(api, "r1")] == [1, 2, 3, 10, 11, 12, 13, 14]

    async def test_given_numbers_may_tie(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        await add_spans(
            api,
            span(attempt, "late", number=5, start_time_unix_nano=30),
            span(attempt, "early", number=5, start_time_unix_nano=10),
            span(attempt, "same-1", number=5, start_time_unix_nano=20),
            span(attempt, "same-2", number=5, start_time_unix_nano=20),
            span(attempt, "first", number=4, start_time_unix_nano=99),
        )
        assert await span_names(api, "r1") == ["first", "early", "same-1", "same-2", "late"]

    async def test_the_first_write_of_a_span_wins(self, api: StoreApi) -> None:
        """Goes wrong when a batch that is sent again stores its spans twice."""
        attempt = await start(api, "r1")
        sent = span(attempt, "first")
        assert not (await add_spans(api, sent)).duplicates
        changed = v1.Span()
        changed.CopyFrom(sent)
        changed.name = "second"
        response = await add_spans(api, span(attempt, "new"), changed, sent)
        assert list(response.sequence_ids) == [2, 1, 1]
        assert list(response.duplicates) == [1, 2]
        assert await span_names(api, "r1") == ["first", "new"]
        assert (await statistics(api)).total_spans == 2

    async def test_the_same_span_twice_in_one_request_is_stored_once(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        sent = span(attempt)
        response = await add_spans(api, sent, sent)
        assert (list(response.sequence_ids), list(response.duplicates)) == ([1, 1], [1])

    async def test_one_identity_may_occur_in_each_attempt(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        ids = {"trace_id": b"t" * 16, "span_id": b"s" * 8}
        response = await add_spans(
            api,
            span(first, **ids),
            span(second, **ids),
            span(first, trace_id=b"u" * 16, span_id=b"s" * 8),
        )
        assert not response.duplicates
        assert len(await spans(api, "r1")) == 3

    @pytest.mark.parametrize("zero", [(b"", b""), (bytes(16), bytes(8))], ids=["empty", "zero"])
    async def test_a_span_without_identity_is_stored_each_time(self, api: StoreApi, zero: tuple[bytes, bytes]) -> None:
        attempt = await start(api, "r1")
        sent = span(attempt, trace_id=zero[0], span_id=zero[1])
        for _ in range(2):
            assert not (await add_spans(api, sent, sent)).duplicates
        assert [one.sequence_id for one in await spans(api, "r1")] == [1, 2, 3, 4]
        assert [(one.trace_id, one.span_id) for one in await spans(api, "r1")] == [zero] * 4

    @pytest.mark.parametrize(
        "fields",
        [
            {"trace_id": b"short"},
            {"span_id": b"longer than eight"},
            {"parent_span_id": b"odd"},
            {"number": -1},
            {"number": 2**63 - 1},
        ],
        ids=str,
    )
    async def test_a_bad_span_is_refused_and_none_of_its_batch_stored(
        self, api: StoreApi, fields: dict[str, object]
    ) -> None:
        """Goes wrong when half of a batch is stored, or when one high number leaves none for the spans after it."""
        attempt = await start(api, "r1")
        with refused(InvalidArgument, "INVALID_SPAN"):
            await add_spans(api, span(attempt), span(attempt, **fields), span(attempt))
        assert await spans(api, "r1") == []
        assert await status_of(api, "r1") == PREPARING
        assert list((await add_spans(api, span(attempt))).sequence_ids) == [1]

    async def test_spans_of_what_does_not_exist_are_refused_with_their_batch(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        for rollout_id, attempt_id, reason in (
            ("nobody", attempt.attempt_id, "ROLLOUT_NOT_FOUND"),
            ("r1", "at-unknown", "ATTEMPT_NOT_FOUND"),
            ("r1", "", "ATTEMPT_NOT_FOUND"),
            ("r1", "latest", "ATTEMPT_NOT_FOUND"),
        ):
            bad = span(v1.Attempt(rollout_id=rollout_id, attempt_id=attempt_id))
            with refused(NotFound, reason):
                await add_spans(api, span(attempt), bad)
        assert await spans(api, "r1") == []

    async def test_a_batch_may_hold_spans_of_several_rollouts(self, api: StoreApi) -> None:
        attempts = [await start(api, f"r{number}") for number in range(3)]
        await add_spans(api, *[span(attempt) for attempt in attempts for _ in range(2)])
        for attempt in attempts:
            assert [one.attempt_id for one in await spans(api, attempt.rollout_id)] == [attempt.attempt_id] * 2
            assert await status_of(api, attempt.rollout_id) == RUNNING

    async def test_a_thousand_spans_in_concurrent_batches_get_a_number_each(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        answers = await asyncio.gather(*[add_spans(api, *[span(attempt) for _ in range(50)]) for _ in range(20)])
        numbers = [number for answer in answers for number in answer.sequence_ids]
        assert sorted(numbers) == list(range(1, 1001))
        assert (await statistics(api)).total_spans == 1000

    async def test_an_empty_request_is_none(self, api: StoreApi) -> None:
        assert not (await add_spans(api)).sequence_ids

    async def test_bytes_are_counted_as_they_are_stored(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        sent = [rich_span(attempt), span(attempt, number=9)]
        await add_spans(api, *sent)
        assert (await statistics(api)).total_span_bytes == sum(one.ByteSize() for one in sent)


class TestSignsOfLife:
    async def test_the_first_span_shows_that_the_attempt_runs(self, api: StoreApi, clock: FakeClock) -> None:
        attempt = await start(api, "r1")
        clock.advance(2)
        await add_spans(api, span(attempt))
        after = await attempt_of(api, attempt)
        assert after.status == AT_RUNNING
        assert after.last_heartbeat_time.ToNanoseconds() == clock.time
        assert await status_of(api, "r1") == RUNNING

    async def test_a_duplicate_span_is_a_sign_of_life_too(self, api: StoreApi, clock: FakeClock) -> None:
        attempt = await start(api, "r1")
        sent = span(attempt)
        await add_spans(api, sent)
        clock.advance(2)
        await add_spans(api, sent)
        assert (await attempt_of(api, attempt)).last_heartbeat_time.ToNanoseconds() == clock.time

    async def test_a_span_revives_an_unresponsive_attempt_and_its_requeued_rollout(
        self, store: OpenStore, api: StoreApi
    ) -> None:
        limits = config(unresponsive=5, max_attempts=3, retry_on=[AT_UNRESPONSIVE])
        await enqueue(api, "r1", "r2", config=limits)
        attempt = await claim(api)
        await report(api, attempt, AT_RUNNING)
        store.pass_time(6)
        assert await status_of(api, "r1") == REQUEUING
        assert await queue(api) == ["r2", "r1"]
        await add_spans(api, span(attempt))
        after = await attempt_of(api, attempt)
        assert (after.status, after.HasField("failure")) == (AT_RUNNING, False)
        assert await status_of(api, "r1") == RUNNING
        assert await queue(api) == ["r2"]

    @pytest.mark.parametrize("final", [AT_SUCCEEDED, AT_FAILED, AT_TIMEOUT], ids=v1.AttemptStatus.Name)
    async def test_a_late_span_is_kept_and_changes_nothing(
        self, api: StoreApi, clock: FakeClock, final: v1.AttemptStatus.ValueType
    ) -> None:
        """Goes wrong when spans that are exported late revive an attempt that has ended."""
        attempt = await start(api, "r1")
        ended = await report(api, attempt, final)
        rollout = await get(api, "r1")
        clock.advance(9)
        await add_spans(api, span(attempt, "late"))
        assert await attempt_of(api, attempt) == ended
        assert await get(api, "r1") == rollout
        assert await span_names(api, "r1") == ["late"]

    async def test_a_span_on_a_superseded_attempt_revives_that_attempt_only(
        self, store: OpenStore, api: StoreApi
    ) -> None:
        limits = config(unresponsive=5, max_attempts=3, retry_on=[AT_UNRESPONSIVE])
        await enqueue(api, "r1", config=limits)
        first = await claim(api)
        store.pass_time(6)
        second = await claim(api)
        await fail(api, second, v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR)
        await add_spans(api, span(first))
        assert (await attempt_of(api, first)).status == AT_RUNNING
        assert await status_of(api, "r1") == FAILED

    async def test_a_span_never_moves_a_finished_rollout(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        rollout = await update(api, "r1", status=CANCELLED)
        await add_spans(api, span(attempt))
        now = await get(api, "r1")
        assert (now.status, now.end_time) == (CANCELLED, rollout.end_time)

    async def test_reserving_numbers_is_no_sign_of_life(self, store: OpenStore, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        await reserve(api, attempt)
        assert await attempt_of(api, attempt) == attempt
        assert attempt.status == AT_PREPARING


async def reserve(api: StoreApi, *attempts: v1.Attempt, count: int = 0) -> list[int]:
    request = v1.ReserveSpanSequenceIdsRequest(
        reservations=[v1.SequenceIdReservation(attempt=key_of(attempt), count=count) for attempt in attempts]
    )
    return list((await api.reserve_span_sequence_ids(HERE, request)).first_sequence_ids)


class TestReserving:
    async def test_numbers_start_at_one_and_never_go_back(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        assert await reserve(api, attempt) == [1]
        assert await reserve(api, attempt, count=10) == [2]
        assert await reserve(api, attempt) == [12]
        assert list((await add_spans(api, span(attempt))).sequence_ids) == [13]
        await add_spans(api, span(attempt, number=20))
        assert await reserve(api, attempt) == [21]

    async def test_the_attempts_of_a_rollout_share_its_counter(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        other = await start(api, "r2")
        second = await start_attempt(api, "r1")
        assert await reserve(api, first, second, other, first, count=5) == [1, 6, 1, 11]

    async def test_numbers_are_never_given_twice_however_many_ask_at_once(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        answers = await asyncio.gather(*[reserve(api, attempt, count=3) for _ in range(30)])
        assert sorted(first for (first,) in answers) == list(range(1, 91, 3))

    async def test_reservations_are_all_made_or_none(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        with refused(NotFound, "ATTEMPT_NOT_FOUND"):
            await reserve(api, attempt, v1.Attempt(rollout_id="r1", attempt_id="at-unknown"))
        with refused(NotFound, "ROLLOUT_NOT_FOUND"):
            await reserve(api, attempt, v1.Attempt(rollout_id="nobody", attempt_id="at-unknown"))
        assert await reserve(api, attempt) == [1]

    @pytest.mark.parametrize("count", [-1, 100_001])
    async def test_a_reservation_takes_up_to_a_hundred_thousand(self, api: StoreApi, count: int) -> None:
        attempt = await start(api, "r1")
        with refused(InvalidArgument, "INVALID_COUNT"):
            await reserve(api, attempt, count=count)
        assert await reserve(api, attempt, count=100_000) == [1]


class TestListing:
    async def test_spans_of_one_of_the_latest_or_of_all_attempts(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        await add_spans(api, span(second, "b"), span(first, "a", number=9), span(second, "c"))
        assert await span_names(api, "r1") == ["b", "a", "c"]
        assert await span_names(api, "r1", first.attempt_id) == ["a"]
        assert await span_names(api, "r1", "latest") == ["b", "c"]

    async def test_the_latest_attempt_is_the_one_with_the_highest_number_even_without_spans(
        self, api: StoreApi
    ) -> None:
        """Goes wrong when the latest attempt is guessed from the spans that came last."""
        first = await start(api, "r1")
        await add_spans(api, span(first, "a"))
        await start_attempt(api, "r1")
        assert await span_names(api, "r1", "latest") == []

    async def test_what_is_unknown_has_no_spans(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        assert await spans(api, "nobody") == []
        assert await spans(api, "r1", "at-unknown") == []
        assert await spans(api, "r1", "latest") == []

    async def test_conditions_match_as_said(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        root = span(attempt, "Root", trace_id=bytes.fromhex("ab" * 16), span_id=bytes.fromhex("0123456789abcdef"))
        child = span(
            attempt,
            "child%",
            trace_id=root.trace_id,
            span_id=bytes.fromhex("fedcba9876543210"),
            parent_span_id=root.span_id,
        )
        other = span(attempt, "other", trace_id=bytes.fromhex("cd" * 16), span_id=bytes.fromhex("1111222233334444"))
        await add_spans(api, root, child, other)
        for expected, conditions in (
            (["Root", "child%"], {"trace_id": "ab" * 16}),
            ([], {"trace_id": "ab"}),
            (["other"], {"trace_id_contains": "cdcd"}),
            (["child%"], {"span_id": "fedcba9876543210"}),
            (["other"], {"span_id_contains": "2223"}),
            (["child%"], {"parent_id": "0123456789abcdef"}),
            (["Root", "other"], {"parent_id": ""}),
            (["child%"], {"parent_id_contains": "6789"}),
            (["Root"], {"name": "Root"}),
            ([], {"name": "root"}),
            (["Root"], {"name_contains": "oo"}),
            ([], {"name_contains": "OO"}),
            (["child%"], {"name_contains": "%"}),
            (["Root"], {"trace_id": "ab" * 16, "name_contains": "t"}),
            (["Root", "child%", "other"], {"trace_id": "ab" * 16, "name": "other", "logic": v1.FILTER_LOGIC_OR}),
            (["Root", "child%", "other"], {"logic": v1.FILTER_LOGIC_OR}),
        ):
            assert await span_names(api, "r1", **conditions) == expected, conditions

    async def test_a_filter_of_alternatives_does_not_widen_the_rollout_or_attempt(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        elsewhere = await start(api, "r2")
        await add_spans(api, span(first, "same"), span(second, "same"), span(elsewhere, "same"))
        wanted = {"name": "same", "parent_id": "", "logic": v1.FILTER_LOGIC_OR}
        assert len(await spans(api, "r1", **wanted)) == 2
        assert len(await spans(api, "r1", second.attempt_id, **wanted)) == 1

    async def test_spans_are_sorted_as_asked(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        for name, number, start_time, end_time, digit in (
            ("b", 3, 10, 90, "2"),
            ("c", 1, 20, 80, "3"),
            ("a", 2, 30, 70, "1"),
        ):
            sent = span(
                attempt,
                name,
                number=number,
                start_time_unix_nano=start_time,
                end_time_unix_nano=end_time,
                trace_id=bytes.fromhex(digit * 32),
                span_id=bytes.fromhex(digit * 16),
                parent_span_id=bytes.fromhex(digit * 16),
            )
            await add_spans(api, sent)
        expected = {
            "": "cab",
            "sequence_id": "cab",
            "start_time": "bca",
            "end_time": "acb",
            "name": "abc",
            "trace_id": "abc",
            "span_id": "abc",
            "parent_id": "abc",
        }
        for order, names in expected.items():
            for descending in (False, True):
                page = v1.Page(order_by=order, descending=descending)
                found = "".join(one.name for one in flat((await list_spans(api, "r1", page=page)).resource_spans))
                assert found == (names[::-1] if descending else names), order

    async def test_times_beyond_every_calendar_are_kept(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        sent = span(attempt, number=1, start_time_unix_nano=2**64 - 1, end_time_unix_nano=2**63)
        await add_spans(api, sent)
        assert await spans(api, "r1") == [sent]

    async def test_spans_are_counted(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        await add_spans(api, span(first, "a"), span(second, "b"), span(second, "c"))
        page = v1.Page(page_size=1, with_total_size=True)
        assert (await list_spans(api, "r1", page=page)).page_info.total_size == 3
        assert (await list_spans(api, "r1", "latest", page=page)).page_info.total_size == 2
        assert (await list_spans(api, "r1", page=page, name="a")).page_info.total_size == 1
        assert (await list_spans(api, "nobody", page=page)).page_info.total_size == 0

    async def test_a_request_is_not_changed_by_being_stored(self, api: StoreApi) -> None:
        """Goes wrong when a store keeps the caller's own objects."""
        attempt = await start(api, "r1")
        request = spans_request(span(attempt, "kept"))
        before = request.SerializeToString()
        await api.add_spans(HERE, request)
        assert request.SerializeToString() == before
        request.resource_spans[0].scope_spans[0].spans[0].name = "changed by the caller"
        assert await span_names(api, "r1") == ["kept"]
