"""Resources: what an algorithm publishes for agents to run with."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from agentlightning.utils.attempt_keys import attempt_key, is_run_key

if TYPE_CHECKING:
    from agentlightning.types.core import AttemptedRollout

__all__ = [
    "LLM",
    "CustomResource",
    "NamedResources",
    "PromptTemplate",
    "ProxyLLM",
    "Resource",
    "ResourceUnion",
    "ResourcesUpdate",
]

logger = logging.getLogger(__name__)


class Resource(BaseModel):
    """Something an agent runs with."""

    resource_type: Any
    """Tells the kinds of resources apart."""


class LLM(Resource):
    """A language model behind an OpenAI-style endpoint."""

    resource_type: Literal["llm"] = "llm"
    """Always `llm`."""
    endpoint: str
    """The base URL of the API."""
    model: str
    """The name that the endpoint knows the model by."""
    api_key: str | None = None
    """The key to call it with, if it wants one."""
    sampling_parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of each call, such as `temperature`."""

    def get_base_url(self, *args: Any, **kwargs: Any) -> str:
        """Returns the URL to call. The arguments are for subclasses that route by rollout; here they are ignored."""
        return self.endpoint


class ProxyLLM(LLM):
    """A language model behind the model gateway, which records each call under the attempt that makes it.

    The gateway learns the attempt from the URL, so call `get_base_url` (or `with_attempted_rollout`) and not
    `endpoint`, which logs a warning.
    """

    resource_type: Literal["proxy_llm"] = "proxy_llm"  # type: ignore[assignment]
    """Always `proxy_llm`."""

    def __getattribute__(self, name: str) -> Any:
        # pydantic and the methods below read the instance's __dict__, so only a caller's own `.endpoint` comes here.
        if name == "endpoint":
            logger.warning("ProxyLLM.endpoint names no attempt; use get_base_url(rollout_id, attempt_id) instead.")
        return super().__getattribute__(name)

    def with_attempted_rollout(self, rollout: AttemptedRollout) -> LLM:
        """Returns the same model as a plain `LLM` whose endpoint names the attempt of `rollout`.

        Its key opens that attempt alone where this has the key of a run, as gateways give it out.
        """
        attempt = rollout.rollout_id, rollout.attempt.attempt_id
        return LLM(
            endpoint=self.get_base_url(*attempt),
            model=self.model,
            api_key=attempt_key(self.api_key, *attempt) if is_run_key(self.api_key) else self.api_key,
            sampling_parameters=dict(self.sampling_parameters),
        )

    def get_base_url(self, rollout_id: str | None, attempt_id: str | None) -> str:
        """Returns the URL that calls of one attempt go to.

        Args:
            rollout_id: The rollout, or `None` for the plain endpoint.
            attempt_id: Its attempt, or `None` for the plain endpoint.

        Returns:
            The endpoint with `/rollout/{rollout_id}/attempt/{attempt_id}` before its final `/v1`, or at its end where
            it has none.

        Raises:
            ValueError: Only one of the two ids is given.
        """
        endpoint = cast("str", self.__dict__["endpoint"])
        if rollout_id is None and attempt_id is None:
            return endpoint
        if rollout_id is None or attempt_id is None:
            raise ValueError("rollout_id and attempt_id must be given together or not at all")
        prefix = endpoint.removesuffix("/")
        version = "/v1" if prefix.endswith("/v1") else ""
        prefix = prefix.removesuffix("/v1")
        return f"{prefix}/rollout/{quote(rollout_id, safe='')}/attempt/{quote(attempt_id, safe='')}{version}"


class PromptTemplate(Resource):
    """A text with blanks."""

    resource_type: Literal["prompt_template"] = "prompt_template"
    """Always `prompt_template`."""
    template: str
    """The text, in the engine's syntax."""
    engine: Literal["jinja", "f-string", "poml"]
    """What fills the blanks: `f-string` is `str.format`, `jinja` needs the jinja2 package, `poml` the poml package."""

    def format(self, **kwargs: Any) -> str:
        """Fills the blanks.

        Args:
            **kwargs: A value for each name in the template.

        Returns:
            The finished text.

        Raises:
            KeyError: An f-string template names something that is not given.
            jinja2.UndefinedError: A jinja template uses something that is not given.
            ImportError: The engine's package is not installed.
        """
        if self.engine == "f-string":
            return self.template.format(**kwargs)
        if self.engine == "jinja":
            return _format_jinja(self.template, kwargs)
        return _format_poml(self.template, kwargs)


def _format_jinja(template: str, values: dict[str, Any]) -> str:
    try:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment
    except ImportError as error:
        raise ImportError(
            "a prompt template with engine 'jinja' needs the package jinja2: pip install jinja2"
        ) from error
    # Templates may be written by a language model, so they get no access to Python's internals.
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    text: str = environment.from_string(template).render(values)
    return text


def _format_poml(template: str, values: dict[str, Any]) -> str:
    try:
        from poml import poml
    except ImportError as error:
        raise ImportError("prompt templates with engine 'poml' need the package poml: pip install poml") from error
    text = poml(template, context=values, chat=False)
    if not isinstance(text, str):
        raise ValueError("the poml template renders to more than text, which format() cannot return")
    return text


class CustomResource(Resource):
    """A resource of a type of the user's own, with whatever fields it has."""

    model_config = ConfigDict(extra="allow")

    resource_type: str
    """The user's name for the type."""


_KNOWN_TYPES = frozenset({"llm", "proxy_llm", "prompt_template"})


def _resource_tag(value: Any) -> str | None:
    resource_type = value.get("resource_type") if isinstance(value, dict) else getattr(value, "resource_type", None)
    if isinstance(resource_type, str):
        return resource_type if resource_type in _KNOWN_TYPES else "custom"
    return None


ResourceUnion = Annotated[
    Annotated[LLM, Tag("llm")]
    | Annotated[ProxyLLM, Tag("proxy_llm")]
    | Annotated[PromptTemplate, Tag("prompt_template")]
    | Annotated[CustomResource, Tag("custom")],
    Discriminator(_resource_tag),
]
"""Any resource, told apart by `resource_type`."""

NamedResources = dict[str, ResourceUnion]
"""Resources by name, in the order in which they were given: agents that ask for "the" LLM get the first one."""


class ResourcesUpdate(BaseModel):
    """One published set of resources."""

    resources_id: str
    """Unique within its experiment."""
    # Older releases had neither times nor version, and some still make updates of their own or send them.
    create_time: float = Field(default_factory=time.time)
    """When it was first published, in seconds since the epoch; now unless given."""
    update_time: float = Field(default_factory=lambda fields: fields.get("create_time", 0.0))
    """When this version was published, in seconds since the epoch; `create_time` unless given."""
    version: int = 1
    """1 when first published, one more with each update."""
    resources: NamedResources
    """The resources by name."""
