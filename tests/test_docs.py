"""The Python examples of the documentation run as they stand."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

PAGES = Path(__file__).parent.parent / "docs"
# These need a server at a fixed port, or a model: they are only compiled.
_ELSEWHERE = re.compile(r"127\.0\.0\.1:4747|AsyncOpenAI\(")


def examples() -> list[tuple[str, str]]:
    found = []
    for page in sorted(PAGES.glob("*.md")):
        for number, text in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1):
            found.append((f"{page.stem}-{number}", text))
    return found


def is_whole(text: str) -> bool:
    """Returns whether an example imports what it uses; others are fragments."""
    if "agl." in text:
        return "import agentlightning as agl" in text
    return re.search(r"^from agentlightning", text, re.MULTILINE) is not None


EXAMPLES = dict(examples())


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_python(name: str) -> None:
    compile(EXAMPLES[name], name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(
    "name", [name for name, text in EXAMPLES.items() if is_whole(text) and not _ELSEWHERE.search(text)]
)
def test_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name.startswith("rest-"):
        warnings.simplefilter("ignore", DeprecationWarning)  # what that page is about
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[name])
    if "__main__" in EXAMPLES[name]:
        # Runner processes import the script, as that of a user.
        subprocess.run([sys.executable, "-W", "error", script], check=True, timeout=60, cwd=tmp_path)
    else:
        runpy.run_path(str(script))
