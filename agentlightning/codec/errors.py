"""What goes wrong when a message is read."""

from __future__ import annotations


class CodecError(ValueError):
    """A message holds something that this release cannot read, such as a status of a newer contract."""


class NotCarriedError(TypeError):
    """A value of the user has a part that no message can carry; the error says which part."""
