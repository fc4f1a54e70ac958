"""What goes wrong when a message is read."""

from __future__ import annotations


class CodecError(ValueError):
    """A message holds something that this release cannot read, such as a status of a newer contract."""
