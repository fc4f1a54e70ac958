"""W3C trace state."""

from __future__ import annotations

from collections.abc import Mapping


def trace_state_from_text(text: str) -> tuple[dict[str, str], str | None]:
    """Decodes a trace state.

    Args:
        text: Its form in headers, such as `vendor=1,other=2`.

    Returns:
        The entries in order, and the text itself if the entries do not say all of it.
    """
    if not text:
        return {}, None
    entries: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        entries[key] = value
    return entries, None if _join(entries) == text else text


def trace_state_to_text(entries: Mapping[str, str]) -> str:
    """Encodes a trace state in its form in headers; empty if it has entries that this form cannot hold."""
    text = _join(entries)
    return text if trace_state_from_text(text) == (entries, None) else ""


def _join(entries: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in entries.items())
