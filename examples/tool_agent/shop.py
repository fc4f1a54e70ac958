"""The tasks: what is asked for in a shop, on which shelf it lies, and how many there are."""

from __future__ import annotations

from typing import Literal, TypedDict


class Task(TypedDict):
    """What the agent works on."""

    item: str
    """What is asked for."""
    shelf: Literal["left", "right"]
    """Where it lies."""
    count: str
    """How many there are. Only a look at the shelf can tell."""


TASKS: list[Task] = [
    {"item": "apples", "shelf": "left", "count": "two"},
    {"item": "apples", "shelf": "left", "count": "six"},
    {"item": "pears", "shelf": "right", "count": "two"},
    {"item": "pears", "shelf": "right", "count": "six"},
]
"""Items lie where they always lie; how many there are differs."""
