"""Backends: the servers that run the models, and the model list that names them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from agentlightning.gateway.apis.base import EXTRAS, Extra, Protocol

logger = logging.getLogger(__name__)

ROLLOUT_HEADER: Final = "agentlightning-rollout-id"
"""In a call to a backend that asks for it: the rollout that calls."""
ATTEMPT_HEADER: Final = "agentlightning-attempt-id"
"""Its attempt."""

_PROVIDERS: Final[Mapping[str, tuple[Protocol, str | None, str | None]]] = {
    "openai": ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "hosted_vllm": ("openai", None, None),
    "vllm": ("openai", None, None),
    "anthropic": ("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
}
"""By the prefix of a model: the protocol, the base URL and the environment variable of the key when none is given."""
_OPENAI: Final = _PROVIDERS["openai"]
# They refuse parameters that their API does not have.
_STRICT_HOSTS: Final = ("api.openai.com", ".openai.azure.com")
_ENVIRONMENT: Final = "os.environ/"
_PARAMETERS: Final = frozenset({"model", "api_base", "base_url", "api_key", "extra_headers", "timeout"})


@dataclass(frozen=True)
class Backend:
    """One server that runs a model. Several of the same `model_name` share its calls."""

    model_name: str
    """The name that agents call the model by."""
    url: str
    """The base URL of the API, up to and with the version: `http://host:8000/v1`."""
    model: str = ""
    """The name that the backend knows the model by; `model_name` unless given."""
    protocol: Protocol = "openai"
    """Whose API it speaks."""
    api_key: str | None = field(default=None, repr=False)
    """The key to call it with. Agents never see it."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further headers of each call."""
    timeout: float = 600.0
    """Seconds for which it may be silent."""
    extras: tuple[Extra, ...] = EXTRAS
    """What it may be asked for beside what agents ask for; what it then refuses it is not asked for again."""
    model_version: str | None = None
    """Version of the model's weights, for the record."""
    told_of_attempts: bool = False
    """Whether calls name the rollout and attempt that they are for, in the headers above."""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"the backend of {self.model_name!r} needs an http:// or https:// URL, not {self.url!r}")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        object.__setattr__(self, "model", self.model or self.model_name)

    def url_of(self, path: str) -> str:
        """Returns the URL of a path below the version."""
        versioned = self.protocol == "anthropic" and not self.url.endswith("/v1")
        return f"{self.url}{'/v1' if versioned else ''}{path}"

    def authorization(self) -> dict[str, str]:
        """Returns the headers that say who calls."""
        if self.api_key is None:
            return {}
        if self.protocol == "anthropic":
            return {"x-api-key": self.api_key}
        return {"authorization": f"Bearer {self.api_key}"}

    def attempt_headers(self, attempt: tuple[str, str] | None) -> dict[str, str]:
        """Returns the headers that say for whom a call is."""
        if attempt is None or not self.told_of_attempts:
            return {}
        return {ROLLOUT_HEADER: attempt[0], ATTEMPT_HEADER: attempt[1]}


def read_model_list(model_list: Iterable[Backend | Mapping[str, Any]]) -> tuple[Backend, ...]:
    """Returns the backends that a model list names.

    Args:
        model_list: Backends, or entries as LiteLLM has them: `model_name`, `litellm_params` with `model`
            (`openai/NAME`, `hosted_vllm/NAME` or `anthropic/NAME`), `api_base`, `api_key` (`os.environ/VARIABLE` takes
            it from the environment), `extra_headers` and `timeout`, and `model_info`, where `token_ids`, `logprobs` and
            `usage` say whether the backend may be asked for those, and `model_version` names its weights.

    Raises:
        ValueError: An entry is none.
    """
    return tuple(entry if isinstance(entry, Backend) else _backend(entry) for entry in model_list)


def _backend(entry: Mapping[str, Any]) -> Backend:
    name, parameters = entry.get("model_name"), entry.get("litellm_params")
    if not isinstance(name, str) or not isinstance(parameters, Mapping) or not parameters.get("model"):
        raise ValueError(
            f"an entry of the model list needs `model_name`, and `litellm_params` with `model`; one has {list(entry)}"
        )
    if unknown := sorted(set(parameters) - _PARAMETERS):
        logger.warning("model %s: litellm_params %s have no effect here", name, ", ".join(unknown))
    prefix, slash, rest = str(parameters["model"]).partition("/")
    known = bool(slash) and prefix in _PROVIDERS
    protocol, default_url, key_variable = _PROVIDERS[prefix] if known else _OPENAI
    url = parameters.get("api_base") or parameters.get("base_url")
    if not url and (not known or default_url is None):
        raise ValueError(f"model {name!r}: litellm_params need `api_base`, the URL of the server that runs the model")
    key = parameters.get("api_key")
    if isinstance(key, str) and key.startswith(_ENVIRONMENT):
        key = _from_environment(name, key.removeprefix(_ENVIRONMENT))
    elif key is None and not url and key_variable:
        key = _from_environment(name, key_variable)
    settings = entry.get("model_info") or {}
    return Backend(
        model_name=name,
        url=str(url or default_url),
        model=rest if known else str(parameters["model"]),
        protocol=protocol,
        api_key=key,
        headers=dict(parameters.get("extra_headers") or {}),
        timeout=float(parameters.get("timeout") or Backend.timeout),
        extras=tuple(extra for extra in EXTRAS if settings.get(extra, _may_be_asked(extra, str(url or default_url)))),
        model_version=settings.get("model_version"),
    )


def _may_be_asked(extra: Extra, url: str) -> bool:
    # Log-probabilities are part of OpenAI's API, but its reasoning models refuse them.
    return extra == "usage" or not (urlsplit(url).hostname or "").endswith(_STRICT_HOSTS)


def _from_environment(name: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ValueError(f"model {name!r}: the environment variable {variable} with its key is not set")
    return value
