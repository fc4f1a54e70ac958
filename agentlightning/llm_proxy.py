"""`LLMProxy`: the model gateway as trainers and algorithms use it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from agentlightning.gateway import require_packages
from agentlightning.gateway.backends import Backend, read_model_list
from agentlightning.removed import describe_removed, raise_if_removed
from agentlightning.types import LLM, ProxyLLM
from agentlightning.utils.attempt_keys import attempt_key
from agentlightning.utils.hosts import url_of

if TYPE_CHECKING:
    from agentlightning.gateway.retries import GatewayRetries
    from agentlightning.gateway.serving import Serving
    from agentlightning.gateway.settings import GatewaySettings, OnStoreFailure
    from agentlightning.store.base import LightningStore

__all__ = ["Backend", "LLMProxy", "ModelConfig"]

LaunchMode = Literal["asyncio", "thread", "mp"]
ModelConfig = Mapping[str, Any]
"""An entry of a model list, as LiteLLM has them; see `LLMProxy`."""

_CALLBACKS: Final = {"return_token_ids": ("token_ids",), "logprobs": ("logprobs",), "opentelemetry": ()}
_MIDDLEWARES: Final = frozenset({"rollout_attempt", "stream_conversion", "message_inspection"})
_COMMAND_SECONDS: Final = 10.0


class LLMProxy:
    """A gateway between agents and models, which records every call as a span of the attempt that makes it.

    Agents call it as they call OpenAI or Anthropic, at the URL that the resource of `as_resource` gives them. It
    forwards their calls to the backends of the model list, streams too, and stores a span with the exact token ids,
    log-probabilities and model version before the last byte of the answer goes out: a rollout that has finished has
    all its calls in the store.

        proxy = LLMProxy(
            model_list=[{"model_name": "policy",
                         "litellm_params": {"model": "hosted_vllm/Qwen/Qwen3-4B", "api_base": "http://gpu:8000/v1"}}],
            store=store,
        )
        await proxy.start()
        await store.add_resources({"llm": proxy.as_resource()})

    It needs the extra `gateway`.
    """

    def __init__(
        self,
        port: int | None = None,
        model_list: Iterable[Backend | ModelConfig] | None = None,
        store: LightningStore | None = None,
        host: str | None = None,
        litellm_config: Mapping[str, Any] | None = None,
        num_retries: int = 0,
        num_workers: int = 1,
        launch_mode: LaunchMode | None = None,
        launcher_args: Any = None,
        middlewares: Sequence[Any] | None = None,
        callbacks: Sequence[Any] | None = None,
        _add_return_token_ids: bool = True,
        *,
        access_host: str | None = None,
        insecure: bool = False,
        run_key: str | None = None,
        require_keys: bool = False,
        on_store_failure: OnStoreFailure = "fail",
        retries: GatewayRetries | None = None,
    ) -> None:
        """Configures the gateway; `start` starts it.

        Args:
            port: Port to listen on; None and 0 take a free one.
            model_list: The models and where they run: `Backend`s, or entries in the form of LiteLLM's model list, see
                `agentlightning.gateway.backends.read_model_list`. Several of one name share its calls.
            store: Where the spans go. The trainer sets it.
            host: Host to listen on; 127.0.0.1 unless given.
            litellm_config: Not supported: there is no LiteLLM behind this.
            num_retries: How often a call is sent again that a backend answered with status 429 or from 500 on.
            num_workers: How many processes serve.
            launch_mode: `mp` serves in processes of their own, `thread` and `asyncio` in a thread of this one, which
                takes `num_workers=1`. None means `mp` for several workers.
            launcher_args: Not supported.
            middlewares: ASGI middleware classes to put around the application. The names of 0.3.0 have no effect: what
                they stood for is part of the gateway.
            callbacks: Names of what backends are asked for beside what agents ask for: `return_token_ids`,
                `logprobs`. None means both. Classes of LiteLLM's are not supported.
            access_host: The host in the URLs that agents get; `host` unless given, or this machine's address where that
                stands for every address.
            insecure: True allows a `host` that others can reach, though nothing is encrypted.
            run_key: The key that opens all attempts; a random one unless given.
            require_keys: Whether calls must show a key. The resource of `as_resource` has the key of the run, of which
                `with_attempted_rollout`, and the runner before it calls a decorated agent, make that of the attempt.
            on_store_failure: What becomes of a call that cannot be recorded: `fail` answers with status 503, so that no
                training data gets lost unseen; `serve` answers all the same.
            retries: When calls are sent again, by kind of failure; overrides `num_retries`.

        Raises:
            ImportError: The extra `gateway` is not installed.
            ValueError: An argument is none, is not supported, or asks for what `insecure` must allow.
        """
        require_packages()
        from agentlightning.gateway.retries import GatewayRetries
        from agentlightning.gateway.settings import GatewaySettings, GatewayState, OnStoreFailure
        from agentlightning.store.server.server import refuse_others

        for argument, given in {"litellm_config=": litellm_config, "launcher_args=": launcher_args}.items():
            if given:
                raise ValueError(describe_removed(f"LLMProxy({argument})"))
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, not {num_workers}")
        if launch_mode not in (None, *get_args(LaunchMode)):
            raise ValueError(f"launch_mode must be one of {', '.join(get_args(LaunchMode))}, not {launch_mode!r}")
        if launch_mode in ("thread", "asyncio") and num_workers > 1:
            raise ValueError(f"launch_mode={launch_mode!r} has room for one worker, not for {num_workers}: take 'mp'")
        if on_store_failure not in get_args(OnStoreFailure):
            raise ValueError(f"on_store_failure must be fail or serve, not {on_store_failure!r}")
        self.host = host or "127.0.0.1"
        refuse_others(self.host, insecure=insecure)
        self.num_workers = num_workers
        self.launch_mode: LaunchMode = launch_mode or ("mp" if num_workers > 1 else "thread")
        self._port = port or 0
        self._access_host = access_host
        self._store = store
        settings = GatewaySettings(
            require_keys=require_keys,
            on_store_failure=on_store_failure,
            retries=retries or GatewayRetries.of_statuses(num_retries),
            extras=_asked_extras(callbacks, _add_return_token_ids),
            middlewares=_own_middlewares(middlewares),
        )
        self._settings: GatewaySettings = dataclasses.replace(settings, run_key=run_key) if run_key else settings
        self._state = GatewayState(read_model_list(model_list or ()))
        self._serving: Serving | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; 0 as long as it has never been started without one."""
        return self._port

    @property
    def model_list(self) -> list[Backend]:
        """The backends."""
        return list(self._state.backends)

    @property
    def url(self) -> str:
        """The base URL of the gateway as agents reach it, with `/v1`.

        Raises:
            RuntimeError: It has not been started, so that its port is not known.
        """
        if not self._port:
            raise RuntimeError("the gateway has no port yet: start it, or give it one")
        return f"{url_of(self._access_host or _reachable(self.host), self._port)}/v1"

    async def start(self) -> None:
        """Starts to serve; returns when calls are answered.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: It is running already.
            ValueError: It has no store.
        """
        if self._serving is not None:
            raise RuntimeError(f"the gateway is running already, at {self.url}")
        if self._store is None:
            raise ValueError("the gateway has no store to record calls in: give it one, or call set_store")
        from agentlightning.gateway.serving import serving

        made = serving(self._settings, self.host, self._port, self.num_workers if self.launch_mode == "mp" else 0)
        await made.start(lambda: self._state, self._store)
        self._serving, self._port = made, made.port

    async def stop(self) -> None:
        """Finishes the calls at work, for up to 5 s, and listens no more. Does nothing when it is not running."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.stop()

    async def restart(self) -> None:
        """Stops and starts again, at the same port. The model list needs no restart."""
        await self.stop()
        await self.start()

    def is_running(self) -> bool:
        """Returns whether it serves."""
        return self._serving is not None

    def get_store(self) -> LightningStore | None:
        """Returns where the spans go."""
        return self._store

    def set_store(self, store: LightningStore) -> None:
        """Sets where the spans go.

        Raises:
            RuntimeError: It is running with another store.
        """
        if self._serving is not None and store is not self._store:
            raise RuntimeError("the gateway is running and records in another store: stop it first")
        self._store = store

    def update_port(self, port: int) -> None:
        """Sets the port for the next start."""
        self._port = port

    def update_model_list(self, model_list: Iterable[Backend | ModelConfig]) -> None:
        """Replaces the model list. The next call follows it; calls at work end where they are.

        Raises:
            ValueError: An entry is none.
        """
        self._state = dataclasses.replace(self._state, backends=read_model_list(model_list))
        for answer in self._submit("replace", self._state.backends):
            answer.result(_COMMAND_SECONDS)

    async def pause(self, model: str | None = None) -> None:
        """Holds new calls of a model, or of all models, until `resume`. Those at work go on.

        Raises:
            ValueError: There is no such model.
        """
        self._expect(model)
        self._state = dataclasses.replace(self._state, paused=self._state.paused | {model})
        await self._tell("pause", model)

    async def drain(self, model: str | None = None, timeout: float | None = None) -> bool:
        """Waits until no call of a model, or of any, is at work, and all are recorded.

        Args:
            model: The model; None for all.
            timeout: Longest wait in seconds.

        Returns:
            Whether that is so now.

        Raises:
            ValueError: There is no such model.
        """
        self._expect(model)
        work = asyncio.ensure_future(self._tell("drain", model))
        done, _ = await asyncio.wait({work}, timeout=timeout)
        if not done:
            work.cancel()
            return False
        work.result()
        return True

    async def resume(self, model: str | None = None, *, model_version: str | None = None) -> None:
        """Lets calls go on.

        Args:
            model: The model; None for all.
            model_version: The version that the weights have from now on; None leaves it.

        Raises:
            ValueError: There is no such model.
        """
        if model_version is not None:
            await self.set_model_version(model_version, model)
        self._expect(model)
        left = frozenset() if model is None else self._state.paused - {model}
        self._state = dataclasses.replace(self._state, paused=left)
        await self._tell("resume", model)

    async def set_model_version(self, model_version: str, model: str | None = None) -> None:
        """Notes the version of the weights of a model, or of all, for the spans of calls that begin from now on.

        Raises:
            ValueError: There is no such model.
        """
        self._expect(model)
        left = () if model is None else (each for each in self._state.versions if each[0] != model)
        self._state = dataclasses.replace(self._state, versions=(*left, (model, model_version)))
        await self._tell("set_version", model, model_version)

    @asynccontextmanager
    async def weight_update(self, model_version: str | None = None, model: str | None = None) -> AsyncIterator[None]:
        """Holds new calls and waits for those at work; in the block the weights can change; afterwards calls go on.

        Args:
            model_version: The version that the weights have when the block has ended without an error.
            model: The model; None for all.

        Raises:
            ValueError: There is no such model.
        """
        await self.pause(model)
        try:
            await self.drain(model)
            yield
            if model_version is not None:
                await self.set_model_version(model_version, model)
        finally:
            await self.resume(model)

    def as_resource(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        model: str | None = None,
        sampling_parameters: Mapping[str, Any] | None = None,
    ) -> LLM:
        """Returns a model behind this gateway as a resource.

        Args:
            rollout_id: The rollout whose calls these will be, together with `attempt_id`.
            attempt_id: Its attempt.
            model: The model; None takes the only one.
            sampling_parameters: What calls are to be made with.

        Returns:
            A `ProxyLLM`, to be published for all rollouts, or, for one attempt, an `LLM` with its URL and key.

        Raises:
            ValueError: Only one id is given, or no model while there is not exactly one, or an unknown one.
            RuntimeError: It has not been started.
        """
        names = list(dict.fromkeys(backend.model_name for backend in self._state.backends))
        if model is None:
            if len(names) != 1:
                raise ValueError(f"say which model is meant: there are {', '.join(names) or 'none'}")
            model = names[0]
        self._expect(model)
        resource = ProxyLLM(
            endpoint=self.url,
            model=model,
            api_key=self._settings.run_key,
            sampling_parameters=dict(sampling_parameters or {}),
        )
        if rollout_id is None and attempt_id is None:
            return resource
        base_url = resource.get_base_url(rollout_id, attempt_id)
        assert rollout_id is not None  # get_base_url takes both or none
        assert attempt_id is not None
        return LLM(
            endpoint=base_url,
            model=model,
            api_key=attempt_key(self._settings.run_key, rollout_id, attempt_id),
            sampling_parameters=resource.sampling_parameters,
        )

    def __getstate__(self) -> dict[str, Any]:
        if self._serving is not None:
            raise TypeError("a gateway that is running cannot be sent to another process; start it there")
        # A trainer sets that of the process it runs in.
        return {**self.__dict__, "_store": None}

    def _expect(self, model: str | None) -> None:
        names = [backend.model_name for backend in self._state.backends]
        if model is not None and model not in names:
            raise ValueError(f"there is no model {model!r}; there are: {', '.join(dict.fromkeys(names)) or 'none'}")

    async def _tell(self, command: str, *arguments: Any) -> None:
        await asyncio.gather(*map(asyncio.wrap_future, self._submit(command, *arguments)))

    def _submit(self, command: str, *arguments: Any) -> list[Future[Any]]:
        return [] if self._serving is None else self._serving.submit(command, *arguments)


def _asked_extras(callbacks: Sequence[Any] | None, token_ids: bool) -> tuple[Any, ...]:
    wanted = ["return_token_ids", "logprobs"] if callbacks is None else list(callbacks)
    for callback in wanted:
        if not isinstance(callback, str):
            raise ValueError(describe_removed("LLMProxy(callbacks=)"))
        if callback not in _CALLBACKS:
            raise ValueError(f"callbacks may have {', '.join(_CALLBACKS)}, not {callback!r}")
    extras = [extra for callback in wanted for extra in _CALLBACKS[callback]]
    return tuple(extra for extra in (*extras, "usage") if token_ids or extra != "token_ids")


def _own_middlewares(middlewares: Sequence[Any] | None) -> tuple[Any, ...]:
    for middleware in middlewares or ():
        if isinstance(middleware, str) and middleware not in _MIDDLEWARES:
            raise ValueError(f"middlewares may have {', '.join(sorted(_MIDDLEWARES))} or classes, not {middleware!r}")
    return tuple(middleware for middleware in middlewares or () if not isinstance(middleware, str))


def _reachable(host: str) -> str:
    """Returns the address by which others reach what listens on `host`."""
    if host not in ("0.0.0.0", "::"):
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: it only chooses the address that packets to elsewhere would come from.
            probe.connect(("2001:db8::1" if family is socket.AF_INET6 else "192.0.2.1", 9))
        except OSError:
            return "::1" if family is socket.AF_INET6 else "127.0.0.1"
        return str(probe.getsockname()[0])


def __getattr__(name: str) -> Any:
    raise_if_removed(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
