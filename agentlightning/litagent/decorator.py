"""Functions as agents."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, overload

from agentlightning.litagent.litagent import LitAgent, MissingResourceError
from agentlightning.litagent.task import task_argument
from agentlightning.types import (
    LLM,
    AttemptedRollout,
    NamedResources,
    PromptTemplate,
    ProxyLLM,
    Rollout,
    RolloutRawResult,
)
from agentlightning.utils.callables import importable_as, is_coroutine_callable

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", LLM, PromptTemplate)

_INJECTED = ("task", "llm", "prompt_template", "rollout")


class FunctionalLitAgent(LitAgent[T]):
    """An agent made of a function, whose parameters are filled by name.

    `task` is the input of the rollout, or a `Task` where it is annotated so, `rollout` the rollout itself, `llm` the
    first language model among the resources, `prompt_template` the first prompt template. Calling the agent calls the
    function.
    """

    def __init__(self, rollout_func: Callable[..., Any], *, strip_proxy: bool = True) -> None:
        """Makes the agent.

        Args:
            rollout_func: The function, plain or async.
            strip_proxy: Hand a model behind the gateway over as a plain `LLM` whose URL names the attempt.

        Raises:
            ValueError: The function needs a parameter that cannot be filled.
        """
        super().__init__()
        self._rollout_func = rollout_func
        self._strip_proxy = strip_proxy
        self._is_async = is_coroutine_callable(rollout_func)
        self._parameters = _injectable_parameters(rollout_func)
        functools.update_wrapper(self, rollout_func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function as it was written."""
        return self._rollout_func(*args, **kwargs)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The decorated name leads to this agent and no longer to the function, so the function cannot be pickled;
        # the agent is, by that name. An agent under another name than its function takes the function with it.
        name = importable_as(self)
        if name is not None:
            return name
        return _rebuild, (self._rollout_func, self._strip_proxy)

    def is_async(self) -> bool:
        """Returns whether the function is async."""
        return self._is_async

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Calls the function.

        Raises:
            RuntimeError: The function is async; await `rollout_async`.
            MissingResourceError: The function asks for a resource that `resources` lacks. It is a ValueError.
        """
        if self._is_async:
            raise RuntimeError(f"{self._name} is async: await rollout_async instead of calling rollout")
        result: RolloutRawResult = self._rollout_func(**self._arguments(task, resources, rollout))
        return result

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Calls the function and awaits it.

        Raises:
            RuntimeError: The function is not async; call `rollout`.
            MissingResourceError: The function asks for a resource that `resources` lacks. It is a ValueError.
        """
        if not self._is_async:
            raise RuntimeError(f"{self._name} is not async: call rollout instead of awaiting rollout_async")
        result: RolloutRawResult = await self._rollout_func(**self._arguments(task, resources, rollout))
        return result

    @property
    def _name(self) -> str:
        return _name_of(self._rollout_func)

    def _arguments(self, task: T, resources: NamedResources, rollout: Rollout) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for parameter in self._parameters:
            if parameter == "task":
                arguments[parameter] = task_argument(self._rollout_func, task, rollout)
            elif parameter == "rollout":
                arguments[parameter] = rollout
            elif parameter == "llm":
                llm = self._first(LLM, resources)
                arguments[parameter] = self._strip_proxy_helper(llm, rollout) if self._strip_proxy else llm
            else:
                arguments[parameter] = self._first(PromptTemplate, resources)
        return arguments

    def _first(self, kind: type[R], resources: NamedResources) -> R:
        matching = {name: resource for name, resource in resources.items() if isinstance(resource, kind)}
        if not matching:
            raise MissingResourceError(
                f"{self._name} needs a resource of type {kind.__name__}, and the resources hold "
                + (", ".join(f"{name} ({type(item).__name__})" for name, item in resources.items()) or "nothing")
            )
        name, resource = next(iter(matching.items()))
        if len(matching) > 1:
            logger.warning("%s gets %r, the first %s of %s", self._name, name, kind.__name__, list(matching))
        return resource

    def _strip_proxy_helper(self, llm: LLM, rollout: Rollout) -> LLM:
        if not isinstance(llm, ProxyLLM):
            return llm
        if not isinstance(rollout, AttemptedRollout):
            raise ValueError("a model behind the gateway needs a rollout with its attempt to know whom it works for")
        return llm.with_attempted_rollout(rollout)


@overload
def llm_rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]: ...
@overload
def llm_rollout(*, strip_proxy: bool = True) -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def llm_rollout(
    func: Callable[..., Any] | None = None, *, strip_proxy: bool = True
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Makes an agent of a function `(task, llm)` or `(task, llm, rollout)`, plain or async.

    Args:
        func: The function, when used without parentheses.
        strip_proxy: Hand a model behind the gateway over as a plain `LLM` whose URL names the attempt.

    Raises:
        ValueError: The parameters are others.
    """

    def decorate(function: Callable[..., Any]) -> FunctionalLitAgent[Any]:
        _expect_parameters(function, "llm")
        return FunctionalLitAgent(function, strip_proxy=strip_proxy)

    return decorate if func is None else decorate(func)


@overload
def prompt_rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]: ...
@overload
def prompt_rollout() -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def prompt_rollout(
    func: Callable[..., Any] | None = None,
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Makes an agent of a function `(task, prompt_template)` or `(task, prompt_template, rollout)`, plain or async.

    Args:
        func: The function, when used without parentheses.

    Raises:
        ValueError: The parameters are others.
    """

    def decorate(function: Callable[..., Any]) -> FunctionalLitAgent[Any]:
        _expect_parameters(function, "prompt_template")
        return FunctionalLitAgent(function)

    return decorate if func is None else decorate(func)


def rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]:
    """Makes an agent of a function that takes `llm` or `prompt_template` after `task`, plain or async.

    Raises:
        NotImplementedError: The function takes neither.
        ValueError: The parameters are in another order, or one of them cannot be filled.
    """
    for name in inspect.signature(func).parameters:
        if name == "llm":
            return llm_rollout(func)
        if name == "prompt_template":
            return prompt_rollout(func)
    raise NotImplementedError(
        f"{_name_of(func)}{inspect.signature(func)} takes neither `llm` nor `prompt_template`; "
        "give it one of them, or write a subclass of LitAgent"
    )


def _rebuild(rollout_func: Callable[..., Any], strip_proxy: bool) -> FunctionalLitAgent[Any]:
    return FunctionalLitAgent(rollout_func, strip_proxy=strip_proxy)


def _name_of(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", repr(func))


def _expect_parameters(func: Callable[..., Any], second: str) -> None:
    names = list(inspect.signature(func).parameters)
    if len(names) < 2:
        raise ValueError(f"{_name_of(func)} must take at least `task` and `{second}`, not {names}")
    if names[0] != "task":
        raise ValueError(f"the first parameter of {_name_of(func)} must be `task`, not `{names[0]}`")
    if names[1] != second:
        raise ValueError(f"the second parameter of {_name_of(func)} must be `{second}`, not `{names[1]}`")


def _injectable_parameters(func: Callable[..., Any]) -> list[str]:
    names = []
    for parameter in inspect.signature(func).parameters.values():
        if parameter.name in _INJECTED:
            names.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ValueError(f"nothing fills the parameter `{parameter.name}`; known are {', '.join(_INJECTED)}")
    return names
