"""Write `clients/vectors.json`: `vectors.py [--check]`.

Messages of the contract as bytes and as JSON (the mapping of protobuf), which clients in every language must read and
write alike. With `--check` nothing is written; the exit code is 1 when the file differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from lightning_store import v1

FILE = Path(__file__).resolve().parent.parent / "clients/vectors.json"
TEXT = 'é漢字🚀 "\\\n\x00'
MOST, LEAST = 2**63 - 1, -(2**63)


def payload(text: str) -> v1.Payload:
    return v1.Payload(content_type="application/json", data=text.encode())


def attempt() -> v1.Attempt:
    return v1.Attempt(
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=2**31 - 1,
        status=v1.ATTEMPT_STATUS_FAILED,
        start_time=Timestamp(seconds=1_700_000_000, nanos=1),
        end_time=Timestamp(seconds=1_700_000_000, nanos=999_999_999),
        worker_id="",
        metadata=payload("null"),
        failure=v1.AttemptFailure(kind=v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR, message=TEXT, retryable=False),
        late_report=v1.LateReport(status=v1.ATTEMPT_STATUS_SUCCEEDED, report_time=Timestamp(seconds=-1)),
        lease_remaining=Duration(seconds=29, nanos=500_000_000),
    )


def rollout() -> v1.Rollout:
    big = f'{{"max":{MOST},"min":{LEAST},"above":{2**64},"text":{json.dumps(TEXT, ensure_ascii=False)},"tenth":0.1}}'
    return v1.Rollout(
        rollout_id="ro-1",
        input=payload(big),
        mode=v1.ROLLOUT_MODE_TRAIN,
        resources_id="",
        status=v1.ROLLOUT_STATUS_REQUEUING,
        config=v1.RolloutConfig(
            timeout=Duration(nanos=1),
            max_attempts=3,
            retry_on=[v1.ATTEMPT_STATUS_FAILED, v1.ATTEMPT_STATUS_TIMEOUT],
            retry_budgets=[v1.RetryBudget(kind=v1.ATTEMPT_FAILURE_KIND_LEASE_LOST, max_retries=-1)],
        ),
        latest_attempt=attempt(),
    )


def values() -> list[v1.AnyValue]:
    array = v1.ArrayValue(values=[v1.AnyValue(int_value=0), v1.AnyValue()])
    nested = v1.KeyValueList(values=[v1.KeyValue(key="", value=v1.AnyValue(bool_value=False))])
    return [
        v1.AnyValue(string_value=TEXT),
        v1.AnyValue(string_value=""),
        v1.AnyValue(int_value=MOST),
        v1.AnyValue(int_value=LEAST),
        v1.AnyValue(double_value=0.1),
        v1.AnyValue(double_value=float("-inf")),
        v1.AnyValue(array_value=array),
        v1.AnyValue(kvlist_value=nested),
        v1.AnyValue(bytes_value=bytes([0, 127, 128, 255])),
    ]


def spans() -> v1.AddSpansRequest:
    span = v1.Span(
        trace_id=bytes(range(16)),
        span_id=bytes(range(248, 256)),
        name=TEXT,
        kind=v1.SPAN_KIND_CLIENT,
        start_time_unix_nano=2**64 - 1,
        end_time_unix_nano=1_700_000_000_123_456_789,
        attributes=[v1.KeyValue(key=f"a{number}", value=value) for number, value in enumerate(values())],
        status=v1.SpanStatus(code=v1.SPAN_STATUS_CODE_ERROR, message="m"),
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=2**62,
        generation=v1.Generation(
            prompt_token_ids=[0, 151_643, 2**31 - 1],
            response_token_ids=[1, 127, 128],
            response_logprobs=[0.0, -0.5, -123.25],
            model="m",
        ),
    )
    scope = v1.ScopeSpans(scope=v1.InstrumentationScope(name="s"), spans=[span, v1.Span()])
    return v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[scope]), v1.ResourceSpans()])


MESSAGES: dict[str, Message] = {
    "everything unset": v1.Rollout(),
    "a rollout with text of any script and integers of 64 bits and more": rollout(),
    "an empty filter, which matches nothing, is not an unset one": v1.ListRolloutsRequest(
        filter=v1.RolloutFilter(status_in=v1.RolloutStatusSet(), logic=v1.FILTER_LOGIC_OR)
    ),
    "set to nothing is not unset": v1.UpdateAttemptRequest(rollout_id="ro-1", attempt_id="at-1", worker_id=""),
    "spans with every kind of value": spans(),
    "a claim": v1.DequeueRolloutsResponse(
        claims=[v1.Claim(rollout=rollout(), attempt=attempt())],
        resources=[
            v1.Resources(
                resources_id="rs-1",
                version=MOST,
                resources=[
                    v1.NamedResource(
                        name="z",
                        resource=v1.Resource(
                            proxy_llm=v1.ProxyLLM(llm=v1.LLM(endpoint="http://h/v1", model="m", api_key=""))
                        ),
                    ),
                    v1.NamedResource(
                        name="a",
                        resource=v1.Resource(prompt_template=v1.PromptTemplate(template=TEXT, engine="f-string")),
                    ),
                    v1.NamedResource(
                        name="c",
                        resource=v1.Resource(custom=v1.CustomResource(resource_type="t", body=payload("[]"))),
                    ),
                ],
            )
        ],
        draining=True,
    ),
    "commands": v1.UpdateWorkerResponse(
        commands=[
            v1.WorkerCommand(cancel_attempt=v1.CancelAttempt(rollout_id="ro-1", attempt_id="at-1", reason=TEXT)),
            v1.WorkerCommand(drain=v1.Drain()),
        ]
    ),
    "the end of a wait": v1.WaitForRolloutsResponse(done=v1.WaitDone()),
    "a number of 64 bits that is set to zero": v1.UpdateResourcesRequest(resources_id="rs-1", expected_version=0),
    "packed numbers": v1.AddSpansResponse(sequence_ids=[1, MOST], duplicates=[0, 2**32 - 1]),
    "why a call failed": ErrorInfo(
        reason="ROLLOUT_NOT_FOUND", domain="lightning_store.v1", metadata={"rollout_id": TEXT}
    ),
    "when to try again": RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
}

UNKNOWN = bytes.fromhex("9206046e657721" + "a206020801")
"""A field 98 with a text, and a field 100 with a message, as a later release of the contract could have them."""


def vectors() -> list[dict[str, object]]:
    """Return the vectors: what is read from `bytes` is `json`, and writes the same bytes again."""
    found: list[dict[str, object]] = [
        {
            "name": name,
            "message": message.DESCRIPTOR.full_name,
            "json": json_format.MessageToDict(message),
            "bytes": message.SerializeToString(deterministic=True).hex(),
        }
        for name, message in MESSAGES.items()
    ]
    key = v1.AttemptKey(rollout_id="ro-1", attempt_id="at-1")
    found.append(
        {
            "name": "fields of a later release are kept",
            "message": key.DESCRIPTOR.full_name,
            "json": json_format.MessageToDict(key),
            "bytes": (key.SerializeToString() + UNKNOWN).hex(),
            "unknown_fields": True,
        }
    )
    return found


def main() -> None:
    text = json.dumps({"vectors": vectors()}, indent=1, ensure_ascii=False) + "\n"
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != text:
        sys.exit(f"{FILE} differs from what {Path(__file__).name} writes; run it without --check")


if __name__ == "__main__":
    main()
