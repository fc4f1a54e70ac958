"""What an agent gets as its task: the input of the rollout, or all that there is to know about the task."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from agentlightning.types import Rollout, Task
from agentlightning.utils.callables import evaluated_annotation

logger = logging.getLogger(__name__)

_CHOICES: Final = (Union, UnionType, Annotated)


def task_argument(call: Callable[..., Any], task: Any, rollout: Rollout) -> Any:
    """Returns what to hand to the function or method of an agent as its task.

    That is a `Task` if the parameter `task` (the first one, where none has that name) is annotated with that type, and
    otherwise the task as it is.

    Args:
        call: What is about to be called.
        task: The input of the rollout, or a `Task`, which is passed on.
        rollout: The rollout to describe.
    """
    return task if isinstance(task, Task) or not _takes_whole_task(call) else Task.of_rollout(rollout, task)


def _takes_whole_task(call: Callable[..., Any]) -> bool:
    parameters = inspect.signature(call).parameters
    parameter = parameters.get("task") or next(iter(parameters.values()), None)
    if parameter is None or parameter.annotation is parameter.empty:
        return False
    try:
        return _is_task(evaluated_annotation(call, parameter))
    except Exception as error:  # noqa: BLE001 - annotations may say anything
        if re.search(rf"\b{Task.__name__}\b", str(parameter.annotation)):
            _warn_once(
                f"{getattr(call, '__qualname__', call)} gets the input of its rollouts as `{parameter.name}`: the "
                f"annotation `{parameter.annotation}` means nothing when it runs ({error}). To get the whole task, "
                "import agentlightning.Task outside of `if TYPE_CHECKING:`"
            )
        return False


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _is_task(annotation: Any) -> bool:
    if get_origin(annotation) in _CHOICES:
        return any(_is_task(choice) for choice in get_args(annotation))
    return annotation is Task
