"""The Go client keeps what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import ROOT, run


@pytest.mark.timeout(300)
def test_its_own_tests_pass(go_environment: dict[str, str], server_address: str) -> None:
    environment = {**go_environment, "AGL_TEST_ADDRESS": server_address}
    out = run(["go", "test", "-count=1", "-v", "agentlightning/runner"], ROOT, environment)
    assert len(re.findall(r"^--- PASS: ", out, re.MULTILINE)) == number_of_tests(ROOT / "clients/go/runner"), out


def number_of_tests(folder: Path) -> int:
    return sum(len(re.findall(r"^func Test", path.read_text(), re.MULTILINE)) for path in folder.glob("*_test.go"))


def test_it_is_formatted_and_vetted(go_environment: dict[str, str]) -> None:
    own = ["runner", "cmd"]
    assert run(["gofmt", "-l", *own], ROOT / "clients/go") == ""
    run(["go", "vet", "agentlightning/runner", "agentlightning/cmd/guess"], ROOT, go_environment)
