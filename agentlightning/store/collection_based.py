"""Left out; importing it says what to use instead."""

from agentlightning.removed import raise_if_removed

raise_if_removed(__name__)
