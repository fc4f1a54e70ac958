"""Hosts and ports as URLs."""

from __future__ import annotations


def url_of(host: str, port: int) -> str:
    """Returns the URL of what listens on a host and a port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
