"""A program that makes one call which is held, says so, and stays until it is killed.

Run as `holding.py CALL ADDRESS`.
"""

from __future__ import annotations

import sys
import time

import grpc
from google.protobuf.duration_pb2 import Duration

from lightning_store import v1
from lightning_store.v1 import resources_service_pb2_grpc, rollout_service_pb2_grpc

LONG = Duration(seconds=60)


def dequeue(channel: grpc.Channel) -> None:
    stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
    stub.DequeueRollouts(v1.DequeueRolloutsRequest(limit=5, wait=LONG, claim_id="held"))


def wait(channel: grpc.Channel) -> None:
    stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
    list(stub.WaitForRollouts(v1.WaitForRolloutsRequest(rollout_ids=["pending"])))


def wait_and_read_little(channel: grpc.Channel) -> None:
    stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
    request = v1.WaitForRolloutsRequest(rollout_ids=["finished", "pending"], spans_view=v1.SPANS_VIEW_ALL_ATTEMPTS)
    call = stub.WaitForRollouts(request)
    next(call)
    time.sleep(60)


def watch(channel: grpc.Channel) -> None:
    stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
    list(stub.WatchRollouts(v1.WatchRolloutsRequest()))


def watch_resources(channel: grpc.Channel) -> None:
    stub = resources_service_pb2_grpc.ResourcesServiceStub(channel)
    list(stub.WatchLatestResources(v1.WatchLatestResourcesRequest()))


if __name__ == "__main__":
    with grpc.insecure_channel(sys.argv[2]) as opened:
        globals()[sys.argv[1]](opened)
