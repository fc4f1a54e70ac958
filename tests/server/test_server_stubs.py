"""A whole training step with the generated stubs and grpcio alone, as a client in another language does it."""

from __future__ import annotations

import json
import secrets
import threading
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from lightning_store import v1
from lightning_store.v1 import (
    attempt_service_pb2_grpc,
    resources_service_pb2_grpc,
    rollout_service_pb2_grpc,
    span_service_pb2_grpc,
    store_service_pb2_grpc,
    worker_service_pb2_grpc,
)


def as_json(value: Any) -> v1.Payload:
    return v1.Payload(content_type="application/json", data=json.dumps(value).encode())


class Stubs:
    """The services of the contract."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.rollouts = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        self.attempts = attempt_service_pb2_grpc.AttemptServiceStub(channel)
        self.spans = span_service_pb2_grpc.SpanServiceStub(channel)
        self.resources = resources_service_pb2_grpc.ResourcesServiceStub(channel)
        self.workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.store = store_service_pb2_grpc.StoreServiceStub(channel)


def run_one(stubs: Stubs) -> None:
    """What a runner does: claim one rollout, work on it, and report."""
    claimed = stubs.rollouts.DequeueRollouts(
        v1.DequeueRolloutsRequest(
            limit=1,
            worker_id="runner",
            claim_id=secrets.token_hex(8),
            wait=Duration(seconds=10),
            lease=Duration(seconds=30),
            with_resources=True,
        )
    )
    (claim,) = claimed.claims
    (resources,) = claimed.resources
    key = v1.AttemptKey(rollout_id=claim.rollout.rollout_id, attempt_id=claim.attempt.attempt_id)
    template = resources.resources[0].resource.prompt_template.template
    question = json.loads(claim.rollout.input.data)["question"]
    beat = stubs.workers.UpdateWorker(v1.UpdateWorkerRequest(worker_id="runner", held_attempts=[key]))
    assert beat.worker.status == v1.WORKER_STATUS_BUSY
    assert list(beat.commands) == []
    first = stubs.spans.ReserveSpanSequenceIds(
        v1.ReserveSpanSequenceIdsRequest(reservations=[v1.SequenceIdReservation(attempt=key, count=2)])
    ).first_sequence_ids[0]
    span = v1.Span(
        rollout_id=key.rollout_id,
        attempt_id=key.attempt_id,
        sequence_id=first,
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name=template.format(question=question),
        generation=v1.Generation(prompt_token_ids=[1, 2], response_token_ids=[3], response_logprobs=[-0.5]),
    )
    request = v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[span])])])
    assert list(stubs.spans.AddSpans(request).sequence_ids) == [first]
    assert list(stubs.spans.AddSpans(request).duplicates) == [0]
    done = stubs.attempts.UpdateAttempt(
        v1.UpdateAttemptRequest(
            rollout_id=key.rollout_id, attempt_id=key.attempt_id, status=v1.ATTEMPT_STATUS_SUCCEEDED
        )
    )
    assert done.attempt.status == v1.ATTEMPT_STATUS_SUCCEEDED


def test_an_algorithm_and_a_runner_meet_over_the_contract(channel: grpc.Channel) -> None:
    stubs = Stubs(channel)
    prompt = v1.Resource(prompt_template=v1.PromptTemplate(template="Answer: {question}", engine="f-string"))
    published = stubs.resources.AddResources(
        v1.AddResourcesRequest(resources_id="p1", resources=[v1.NamedResource(name="main", resource=prompt)])
    )
    assert published.resources.version == 1
    runner = threading.Thread(target=lambda: [run_one(Stubs(channel)) for _ in range(2)])
    runner.start()
    enqueued = stubs.rollouts.EnqueueRollouts(
        v1.EnqueueRolloutsRequest(
            rollouts=[
                v1.NewRollout(rollout_id=f"q{number}", input=as_json({"question": f"{number}?"})) for number in (1, 2)
            ]
        )
    )
    assert [rollout.resources_id for rollout in enqueued.rollouts] == ["p1", "p1"]
    events = list(
        stubs.rollouts.WaitForRollouts(
            v1.WaitForRolloutsRequest(
                rollout_ids=["q1", "q2", "nothing"],
                timeout=Duration(seconds=20),
                spans_view=v1.SPANS_VIEW_LATEST_ATTEMPT,
            )
        )
    )
    runner.join()
    finished = {event.finished.rollout_id: event.finished for event in events if event.HasField("finished")}
    assert {name: rollout.status for name, rollout in finished.items()} == {
        "q1": v1.ROLLOUT_STATUS_SUCCEEDED,
        "q2": v1.ROLLOUT_STATUS_SUCCEEDED,
    }
    chunks = [event.span_chunk for event in events if event.HasField("span_chunk")]
    spans = [span for chunk in chunks for group in chunk.resource_spans for span in group.scope_spans[0].spans]
    assert sorted(span.name for span in spans) == ["Answer: 1?", "Answer: 2?"]
    assert all(list(span.generation.response_token_ids) == [3] for span in spans)
    assert [event.not_found_rollout_id for event in events if event.HasField("not_found_rollout_id")] == ["nothing"]
    assert events[-1].HasField("done")
    assert list(events[-1].done.pending_rollout_ids) == []
    totals = stubs.store.GetStatistics(v1.GetStatisticsRequest())
    assert (totals.total_rollouts, totals.total_attempts, totals.total_spans) == (2, 2, 2)
    assert stubs.workers.GetWorker(v1.GetWorkerRequest(worker_id="runner")).worker.status == v1.WORKER_STATUS_IDLE


def test_experiments_are_apart_by_call_metadata(channel: grpc.Channel) -> None:
    stubs = Stubs(channel)
    there = [("agl-experiment", "other")]
    stubs.rollouts.EnqueueRollouts(
        v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="only-there")]), metadata=there
    )
    here = stubs.rollouts.ListRollouts(v1.ListRolloutsRequest())
    assert "only-there" not in [rollout.rollout_id for rollout in here.rollouts]
    listed = stubs.rollouts.ListRollouts(v1.ListRolloutsRequest(), metadata=there)
    assert [rollout.rollout_id for rollout in listed.rollouts] == ["only-there"]


def test_a_deadline_of_the_client_ends_a_held_call(channel: grpc.Channel) -> None:
    stubs = Stubs(channel)
    stubs.rollouts.EnqueueRollouts(v1.EnqueueRolloutsRequest(), metadata=[("agl-experiment", "idle")])
    with pytest.raises(grpc.RpcError) as caught:
        stubs.rollouts.DequeueRollouts(
            v1.DequeueRolloutsRequest(limit=1, wait=Duration(seconds=30)),
            timeout=0.3,
            metadata=[("agl-experiment", "idle")],
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
