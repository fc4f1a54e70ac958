"""Checks a fresh environment that holds the core only: how much came with it, and what importing it costs.

Run by `make check-install` with the environment's own Python.
"""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path

MOST_PACKAGES = 25
MOST_SECONDS = 0.5
TOOLS = {"pip", "setuptools", "wheel"}
OPTIONAL = (
    "agentops",
    "anthropic",
    "fastapi",
    "httpx",
    "jinja2",
    "litellm",
    "openai",
    "openinference",
    "psycopg",
    "torch",
    "uvicorn",
)


def main() -> None:
    """Prints what it finds, and fails if that is too much."""
    began = time.perf_counter()
    import agentlightning

    seconds = time.perf_counter() - began
    for name in agentlightning.__all__:
        getattr(agentlightning, name)
    loaded = [name for name in OPTIONAL if name in sys.modules]
    packages = sorted({distribution.name for distribution in metadata.distributions()} - TOOLS)
    size = sum(path.stat().st_size for path in Path(sys.prefix).rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{len(packages)} packages: {', '.join(packages)}")
    print(f"the environment takes {size / 1e6:.0f} MB, pip included; import agentlightning took {seconds:.3f} s")
    if len(packages) > MOST_PACKAGES:
        sys.exit(f"more than {MOST_PACKAGES} packages")
    if seconds > MOST_SECONDS:
        sys.exit(f"importing takes longer than {MOST_SECONDS} s")
    if loaded:
        sys.exit(f"every public name was looked up, and that imported optional packages: {', '.join(loaded)}")


if __name__ == "__main__":
    main()
