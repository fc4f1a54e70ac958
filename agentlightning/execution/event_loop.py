"""An event loop that ends, whatever agents leave on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

logger = logging.getLogger(__name__)

LEAVE_SECONDS: Final = 1.0
"""What tasks that are left get to clean up, when they are cancelled at the end."""


def run_to_the_end(main: Coroutine[Any, Any, None]) -> None:
    """Does what `asyncio.run` does, except that it does not wait for ever for what `main` leaves behind.

    That may be tasks that ignore their cancellation, and calls of `asyncio.to_thread` that do not return. Python waits
    for the latter once more, when the process is to end.
    """
    asyncio.run(_leaving_nothing(main))


async def _leaving_nothing(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(threads)
    try:
        await main
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            _, stubborn = await asyncio.wait(left, timeout=LEAVE_SECONDS)
            for task in stubborn:
                logger.warning("%s ignores its cancellation and is left behind", task.get_name())
                # asyncio.run would wait for it.
                asyncio.tasks._unregister_task(task)  # noqa: SLF001 - documented, for extending asyncio
        threads.shutdown(wait=False)
        # asyncio.run would wait for the threads of the other one.
        loop.set_default_executor(ThreadPoolExecutor())
