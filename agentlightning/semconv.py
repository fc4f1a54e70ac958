"""Names of the spans and attributes that this library writes and reads."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel

__all__ = [
    "AGL_ANNOTATION",
    "AGL_EXCEPTION",
    "AGL_MESSAGE",
    "AGL_OBJECT",
    "AGL_OPERATION",
    "AGL_REWARD",
    "AGL_VIRTUAL",
    "LightningResourceAttributes",
    "LightningSpanAttributes",
    "LinkAttributes",
    "LinkPydanticModel",
    "RewardAttributes",
    "RewardPydanticModel",
]

AGL_ANNOTATION = "agentlightning.annotation"
"""Name of a span that says something about the rollout: a reward, tags, links."""
AGL_MESSAGE = "agentlightning.message"
"""Name of a span that carries a text."""
AGL_OBJECT = "agentlightning.object"
"""Name of a span that carries an object."""
AGL_EXCEPTION = "agentlightning.exception"
"""Name of a span that carries an exception."""
AGL_OPERATION = "agentlightning.operation"
"""Name of a span that covers a function call or a block."""
AGL_REWARD = "agentlightning.reward"
"""Name of a reward span of release 0.2. Read, no longer written."""
AGL_VIRTUAL = "agentlightning.virtual"
"""Name of a span that nothing ran for, made to hold others together."""


class LightningResourceAttributes(Enum):
    """Attributes of an OpenTelemetry resource that say which attempt its spans belong to."""

    ROLLOUT_ID = "agentlightning.rollout_id"
    """The rollout."""
    ATTEMPT_ID = "agentlightning.attempt_id"
    """The attempt."""
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    """Place of the span in its rollout."""
    TRACER_NAME = "agentlightning.tracer.name"
    """The tracer that recorded the span."""


class LightningSpanAttributes(Enum):
    """Attributes of spans. Those with several values are prefixes: `agentlightning.reward.0.name`."""

    REWARD = "agentlightning.reward"
    """Prefix of the dimensions of a reward, numbered from 0; the first is the primary one."""
    LINK = "agentlightning.link"
    """Prefix of references to other spans, numbered from 0."""
    TAG = "agentlightning.tag"
    """Prefix of tags, numbered from 0."""
    MESSAGE_BODY = "agentlightning.message.body"
    """The text of a message."""
    OBJECT_TYPE = "agentlightning.object.type"
    """Qualified name of the type of an object."""
    OBJECT_LITERAL = "agentlightning.object.literal"
    """An object that is a plain value."""
    OBJECT_JSON = "agentlightning.object.json"
    """An object as JSON."""
    OPERATION_NAME = "agentlightning.operation.name"
    """What the operation is called."""
    OPERATION_INPUT = "agentlightning.operation.input"
    """Prefix of the arguments."""
    OPERATION_OUTPUT = "agentlightning.operation.output"
    """Prefix of the result."""


class RewardAttributes(Enum):
    """What follows the number in `agentlightning.reward.N.`."""

    REWARD_NAME = "name"
    """Name of the dimension."""
    REWARD_VALUE = "value"
    """Its value, a number."""


class LinkAttributes(Enum):
    """What follows the number in `agentlightning.link.N.`."""

    KEY_MATCH = "key_match"
    """Name of the attribute that the other span carries."""
    VALUE_MATCH = "value_match"
    """The value that it has there."""


class RewardPydanticModel(BaseModel):
    """One dimension of a reward."""

    name: str
    """Which dimension; `primary` where there is only one."""
    value: float
    """How good."""


class LinkPydanticModel(BaseModel):
    """A reference to the spans that carry an attribute with a value."""

    key_match: str
    """Name of the attribute."""
    value_match: str
    """The value that it has there."""
