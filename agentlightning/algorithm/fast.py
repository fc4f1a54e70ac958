"""Algorithms that end soon: what `Trainer.dev` runs."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.utils import expect_dataset, with_llm_proxy, with_store
from agentlightning.store.errors import NotFound
from agentlightning.types import Attempt, Dataset, Rollout, RolloutConfig, RolloutMode, Span

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

DEV_ROLLOUT_SECONDS: Final = 600.0
"""How long a rollout of the baseline may take unless told otherwise."""
_RESOURCES_ID: Final = "default"
_FIRST_LOOK_SECONDS: Final = 0.1
# A runner may notice only after a heartbeat and a grace that the store has given up its rollout.
_STALL_SECONDS = 60.0


class FastAlgorithm(Algorithm):
    """An algorithm that ends soon, which makes it one for `Trainer.dev`."""


@dataclass(frozen=True)
class _Sample:
    dataset_name: str
    dataset: Dataset[Any]
    index: int
    mode: RolloutMode

    @property
    def name(self) -> str:
        return f"{self.dataset_name}[{self.index}]"


class Baseline(FastAlgorithm):
    """Runs every sample of both datasets and logs what came of each. It learns nothing.

    Samples of `train_dataset` run in the mode `train`, those of `val_dataset` in the mode `val`, with the trainer's
    initial resources. Without any, and with none in the store, an empty set is published: agents that need no
    resources run, and others fail with the kind `missing_resources`.
    """

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float = 0.5,
        polling_interval: float = 5.0,
        max_queue_length: int = 4,
        span_verbosity: Literal["keys", "key_values", "none"] = "keys",
        rollout_timeout: float | None = DEV_ROLLOUT_SECONDS,
    ) -> None:
        """Configures the baseline.

        Args:
            n_epochs: How often to run each sample.
            train_split: Checked and otherwise without effect, as in 0.3.0: the two datasets are what they are.
            polling_interval: Most seconds between two looks at the queue while samples wait for a place in it. Rollouts
                that finish are noticed at once.
            max_queue_length: How many rollouts may wait in the queue.
            span_verbosity: What to log of each span: the keys of its attributes, their values too, or no span at all.
            rollout_timeout: Seconds that each rollout may take; None sets no limit. With a limit, the run also ends,
                with an error, when runners do nothing for a minute longer than that.

        Raises:
            ValueError: An argument is not one of the possible ones.
        """
        super().__init__()
        if n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, not {n_epochs}")
        if not 0.0 < train_split < 1.0:
            raise ValueError(f"train_split must be between 0 and 1, not {train_split}")
        if polling_interval <= 0:
            raise ValueError(f"polling_interval must be above 0, not {polling_interval}")
        if max_queue_length < 1:
            raise ValueError(f"max_queue_length must be at least 1, not {max_queue_length}")
        if span_verbosity not in ("keys", "key_values", "none"):
            raise ValueError(f"span_verbosity must be keys, key_values or none, not {span_verbosity!r}")
        if rollout_timeout is not None and rollout_timeout <= 0:
            raise ValueError(f"rollout_timeout must be above 0 or None, not {rollout_timeout}")
        self.n_epochs = n_epochs
        self.train_split = train_split
        self.polling_interval = polling_interval
        self.max_queue_length = max_queue_length
        self.span_verbosity = span_verbosity
        self.rollout_timeout = rollout_timeout

    @with_llm_proxy()
    @with_store
    async def run(
        self,
        store: LightningStore,
        llm_proxy: Any | None,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
    ) -> None:
        """Runs all samples, epoch by epoch. A model gateway runs meanwhile.

        Raises:
            ValueError: There is no sample.
            TypeError: A dataset is none, or a sample is nothing that JSON can carry.
            RuntimeError: No runner does anything any more.
        """
        samples = [
            *_samples("train_dataset", train_dataset, "train"),
            *_samples("val_dataset", val_dataset, "val"),
        ]
        if not samples:
            raise ValueError("there is nothing to run: train_dataset and val_dataset are both missing or empty")
        resources_id = await self._publish(store)
        for epoch in range(self.n_epochs):
            logger.info("epoch %d of %d: %d samples", epoch + 1, self.n_epochs, len(samples))
            await self._run_epoch(store, samples, resources_id)

    async def _publish(self, store: LightningStore) -> str | None:
        resources = self.get_initial_resources()
        if resources is None:
            with suppress(NotFound):  # an experiment begins with the first write to it
                if await store.get_latest_resources() is not None:
                    return None
            logger.warning("there are no initial_resources: agents that need any will fail")
            resources = {}
        return (await store.update_resources(_RESOURCES_ID, resources)).resources_id

    async def _run_epoch(self, store: LightningStore, samples: list[_Sample], resources_id: str | None) -> None:
        loop = asyncio.get_running_loop()
        waiting = deque(samples)
        at_work: set[asyncio.Task[None]] = set()
        pause = _FIRST_LOOK_SECONDS
        last_move = loop.time()
        try:
            while waiting or at_work:
                enqueued = await self._fill_queue(store, waiting, resources_id)
                at_work |= {asyncio.create_task(self._harvest(store, rollout_id)) for rollout_id in enqueued}
                pause = _FIRST_LOOK_SECONDS if enqueued else min(2 * pause, self.polling_interval)
                # Nobody tells when the queue moves, so that is looked at, ever less often.
                done = await _wait_for_any(at_work, pause if waiting else self.polling_interval)
                at_work -= done
                for harvest in done:
                    harvest.result()
                if enqueued or done:
                    last_move = loop.time()
                elif self.rollout_timeout is not None:
                    self._expect_moves(loop.time() - last_move, len(waiting) + len(at_work))
        finally:
            for harvest in at_work:
                harvest.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

    async def _fill_queue(self, store: LightningStore, waiting: deque[_Sample], resources_id: str | None) -> list[str]:
        if not waiting:
            return []
        queued = await store.query_rollouts(status_in=["queuing", "requeuing"], limit=self.max_queue_length)
        config = RolloutConfig(timeout_seconds=self.rollout_timeout)
        enqueued = []
        for _ in range(min(len(waiting), self.max_queue_length - len(queued))):
            sample = waiting.popleft()
            task = sample.dataset[sample.index]
            try:
                rollout = await store.enqueue_rollout(task, sample.mode, resources_id, config)
            except TypeError as error:
                raise TypeError(f"{sample.name} cannot be sent to a runner: {error}") from error
            logger.info("rollout %s: %s is in the queue, mode %s", rollout.rollout_id, sample.name, sample.mode)
            enqueued.append(rollout.rollout_id)
        return enqueued

    def _expect_moves(self, still_for: float, left: int) -> None:
        assert self.rollout_timeout is not None
        if still_for > self.rollout_timeout + _STALL_SECONDS:
            raise RuntimeError(
                f"no runner took or finished a rollout for {still_for:.0f} s, and {left} are left: either none is "
                "running, or what they run cannot be interrupted"
            )

    async def _harvest(self, store: LightningStore, rollout_id: str) -> None:
        """Waits for a rollout and logs what came of it."""
        for rollout in await store.wait_for_rollouts(rollout_ids=[rollout_id]):
            seconds = (rollout.end_time or rollout.start_time) - rollout.start_time
            logger.info("rollout %s %s in %.2f s", rollout_id, rollout.status, seconds)
            attempts = await store.query_attempts(rollout_id)
            spans: list[Span] = []
            try:
                spans.extend(await store.query_spans(rollout_id))
            except RuntimeError as error:  # the store has dropped them
                logger.warning("%s", error)
            for attempt in attempts:
                self._log_attempt(attempt, [span for span in spans if span.attempt_id == attempt.attempt_id])
            # Adapters may warn about what is missing, so they are asked only if somebody looks.
            if attempts and logger.isEnabledFor(logging.INFO):
                self._log_adapted(rollout, [span for span in spans if span.attempt_id == attempts[-1].attempt_id])

    def _log_attempt(self, attempt: Attempt, spans: list[Span]) -> None:
        key = (attempt.rollout_id, attempt.attempt_id)
        why = f": {attempt.failure.kind}: {attempt.failure.message}" if attempt.failure is not None else ""
        logger.info("rollout %s, attempt %s %s on %s%s", *key, attempt.status, attempt.worker_id, why)
        if self.span_verbosity == "none":
            return
        for span in spans:
            shown = span.attributes if self.span_verbosity == "key_values" else list(span.attributes)
            seconds = (span.end_time or 0.0) - (span.start_time or 0.0)
            logger.info(
                "rollout %s, attempt %s, span %d: %s, %.2f s, %s", *key, span.sequence_id, span.name, seconds, shown
            )

    def _log_adapted(self, rollout: Rollout, spans: list[Span]) -> None:
        try:
            adapter = self.get_adapter()
        except ValueError:
            logger.info("there is no adapter to show what could be learned from the spans")
            return
        try:
            logger.info("rollout %s as its adapter sees it: %s", rollout.rollout_id, adapter.adapt(spans))
        except Exception as error:  # noqa: BLE001 - this run is for finding out
            logger.warning("rollout %s: the adapter raised %s: %s", rollout.rollout_id, type(error).__name__, error)


def _samples(name: str, dataset: Dataset[Any] | None, mode: RolloutMode) -> Iterator[_Sample]:
    if dataset is not None:
        expect_dataset(name, dataset)
        yield from (_Sample(name, dataset, index, mode) for index in range(len(dataset)))


async def _wait_for_any(tasks: set[asyncio.Task[None]], timeout: float) -> set[asyncio.Task[None]]:
    if not tasks:
        await asyncio.sleep(timeout)
        return set()
    done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return done
