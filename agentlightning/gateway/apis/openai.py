"""OpenAI's chat completions, completions and embeddings, as vLLM extends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentlightning.gateway.apis.base import (
    Answer,
    Api,
    Document,
    Extra,
    Prompt,
    Protocol,
    Reader,
    common_parameters,
    listed,
    named,
    text,
)
from agentlightning.gateway.apis.choices import ChoicesReader, usage_counts
from agentlightning.gateway.json_edit import Edit, Rules


class _Choices(Api):
    protocol: ClassVar[Protocol] = "openai"
    asks_for_logprobs: ClassVar[Document]

    def asks(self, request: Document) -> Mapping[Extra, Document]:
        wanted: dict[Extra, Document] = {}
        if not request.get("return_token_ids"):
            wanted["token_ids"] = {"return_token_ids": True}
        # 0 asks completions for the log-probabilities of what was sampled.
        if request.get("logprobs") is None or request["logprobs"] is False:
            wanted["logprobs"] = self.asks_for_logprobs
        if request.get("stream") and not named(request.get("stream_options")).get("include_usage"):
            wanted["usage"] = {"stream_options": {**named(request.get("stream_options")), "include_usage": True}}
        return wanted

    def hides(self, request: Document, extras: Sequence[Extra]) -> Rules:
        choice: dict[str, Edit] = {}
        answer: dict[str, Edit | Rules] = {}
        if "token_ids" in extras:
            choice |= {"token_ids": Edit.REMOVE, "prompt_token_ids": Edit.REMOVE}
            answer["prompt_token_ids"] = Edit.REMOVE
        if "logprobs" in extras:
            choice["logprobs"] = Edit.NULL
        if "usage" in extras:
            answer["usage"] = Edit.REMOVE
        if choice:
            answer["choices"] = choice
        return answer

    def drops(self, event: Document, extras: Sequence[Extra]) -> bool:
        return "usage" in extras and event.get("choices") == [] and bool(event.get("usage"))

    def reader(self, request: Document) -> Reader:
        return ChoicesReader(request.get("n"))


class ChatCompletions(_Choices):
    """`/chat/completions`."""

    name: ClassVar[str] = "openai.chat.completion"
    path: ClassVar[str] = "/chat/completions"
    operation: ClassVar[str | None] = "chat"
    asks_for_logprobs: ClassVar[Document] = {"logprobs": True}

    def prompt(self, request: Document) -> Prompt:
        return Prompt(
            messages=[dict(message) for message in listed(request.get("messages")) if isinstance(message, dict)],
            tools=[tool for tool in listed(request.get("tools")) if isinstance(tool, dict)],
            parameters=common_parameters(request),
        )


class Completions(_Choices):
    """`/completions`."""

    name: ClassVar[str] = "openai.completion"
    path: ClassVar[str] = "/completions"
    operation: ClassVar[str | None] = "text_completion"
    asks_for_logprobs: ClassVar[Document] = {"logprobs": 0}

    def prompt(self, request: Document) -> Prompt:
        prompt = request.get("prompt")
        texts = [prompt] if isinstance(prompt, str) else [each for each in listed(prompt) if isinstance(each, str)]
        return Prompt([{"role": "user", "content": each} for each in texts], [], common_parameters(request))

    def reader(self, request: Document) -> Reader:
        prompts = request.get("prompt")
        # A list of texts, or of lists of tokens, is several prompts, and each has its choices.
        several = isinstance(prompts, list) and bool(prompts) and not isinstance(prompts[0], int)
        choices = request.get("n") if type(request.get("n")) is int else 1
        return ChoicesReader(choices * len(prompts) if several and prompts and choices else choices)


class Embeddings(Api):
    """`/embeddings`."""

    name: ClassVar[str] = "openai.embedding"
    path: ClassVar[str] = "/embeddings"
    protocol: ClassVar[Protocol] = "openai"
    operation: ClassVar[str | None] = "embeddings"
    generates: ClassVar[bool] = False

    def reader(self, request: Document) -> Reader:
        return _EmbeddingsReader()


class _EmbeddingsReader(Reader):
    def __init__(self) -> None:
        self._document: Document = {}

    def read_document(self, document: Document) -> None:
        self._document = document

    def read_event(self, document: Document) -> bool:
        return False

    def answer(self) -> Answer:
        usage = usage_counts(named(self._document.get("usage")), "prompt_tokens", "completion_tokens")
        return Answer(model=text(self._document.get("model")), usage=usage)
