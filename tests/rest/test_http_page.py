"""The commands of docs/http.md do what the page says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rest_calls import Switchboard

from agentlightning.store.memory import InMemoryLightningStore

PAGE = Path(__file__).parent.parent.parent / "docs" / "http.md"
# The first block installs and starts what is tested here.
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[1:]


def expectation(block: str) -> str:
    """What the comments of a block say that it prints, as a pattern."""
    said = [line[2:] for line in block.splitlines() if line.startswith("# ")]
    return r"\s*".join(".*".join(re.escape(part) for part in line.split("...")) for line in said)


@pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed: the commands of docs/http.md are not run"
)
def test_the_commands_of_the_page_print_what_it_says(switchboard: Switchboard) -> None:
    assert len(BLOCKS) >= 8
    mark = "=" * 40
    script = f"\necho; echo {mark}\n".join(["set -euo pipefail", *BLOCKS])
    store = InMemoryLightningStore()
    with switchboard.serving(store) as url:
        script = script.replace("http://127.0.0.1:8000", url)
        ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    store.close_now()
    assert (ended.returncode, ended.stderr) == (0, "")
    for block, printed in zip(BLOCKS, ended.stdout.split(mark)[1:], strict=True):
        wanted = expectation(block)
        assert re.fullmatch(rf"\s*{wanted}\s*", printed, re.DOTALL), (wanted, printed)


def test_the_page_says_what_every_command_that_asks_prints() -> None:
    for block in BLOCKS:
        asks = re.search(r"^(call|stream|curl) ", block, re.MULTILINE)
        assert asks is None or expectation(block)
