"""Logging: silent until asked for, set up in one call, and never twice."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

PREPARED = """
import io, logging, sys, warnings
from agentlightning.logging import configure_logger, setup, setup_module
top, store, other = (logging.getLogger(name) for name in ("agentlightning", "agentlightning.store", "myagent"))
"""


def stderr_of(code: str, *arguments: str | Path, **environment: str) -> list[str]:
    """Runs code in a fresh process and returns the lines on its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def on_terminal(code: str, **environment: str) -> str:
    """Runs code in a fresh process whose stderr is a terminal, and returns what that shows."""
    reader, terminal = pty.openpty()
    try:
        env = {**os.environ, "TERM": "xterm", **environment}
        subprocess.run([sys.executable, "-c", PREPARED + code], stderr=terminal, timeout=60, check=True, env=env)
        return os.read(reader, 65536).decode()
    finally:
        os.close(terminal)
        os.close(reader)


def test_a_message_says_when_how_bad_who_and_what() -> None:
    (line,) = stderr_of('setup(); store.info("hello %s", "there"); store.debug("hidden"); other.info("not ours")')
    date, time, level, process, name, *text = line.split()
    assert (level, name, text) == ("INFO", "agentlightning.store]", ["hello", "there"])
    assert process.removeprefix("[").isdigit()
    assert (date.count("-"), time.count(":")) == (2, 2)


def test_nothing_is_written_twice_however_often_it_is_set_up() -> None:
    code = """
logging.basicConfig(stream=sys.stderr)
for _ in range(3):
    setup()
    setup_module()
setup(apply_to=["myagent"], capture_warnings=True)
setup(apply_to=["myagent"], capture_warnings=True)
top.warning("one"); other.info("two")
warnings.warn("three")
"""
    lines = stderr_of(code)
    assert [sum(word in line for line in lines) for word in ("one", "two", "UserWarning: three")] == [1, 1, 1]


def test_every_setup_starts_over(tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    code = """
levels = {"agentlightning.store": "ERROR"}
setup("DEBUG", files=sys.argv[1], apply_to=["myagent"], submodule_levels=levels, capture_warnings=True)
setup("INFO", files=sys.argv[2])
top.debug("hidden"); store.info("kept"); other.info("not ours")
warnings.warn("plain")
assert other.handlers == [] and other.propagate and other.level == logging.NOTSET
"""
    # Some releases of Python show the code below a warning.
    kept, warning, *_ = stderr_of(code, first, second)
    assert kept.endswith("kept")
    assert re.fullmatch(r"<string>:\d+: UserWarning: plain", warning)
    assert first.read_text() == ""
    assert second.read_text().splitlines() == [kept]


def test_handlers_of_the_user_stay() -> None:
    code = """
seen = io.StringIO()
top.addHandler(logging.StreamHandler(seen))
setup(console=False)
setup(console=False)
top.warning("seen")
assert seen.getvalue() == "seen\\n"
"""
    assert stderr_of(code) == []


def test_levels_have_names_and_numbers_and_may_differ_below() -> None:
    code = """
setup("warning", submodule_levels={"agentlightning.store": logging.DEBUG, "agentlightning.runner": "error"})
top.info("no"); top.warning("yes 1"); store.debug("yes 2")
logging.getLogger("agentlightning.runner.agent").warning("no")
try:
    setup("LOUD")
except ValueError as error:
    assert "LOUD" in str(error)
else:
    raise AssertionError
"""
    assert [line[-5:] for line in stderr_of(code)] == ["yes 1", "yes 2"]


def test_console_can_be_off() -> None:
    assert stderr_of('setup(console=False); top.error("x"); setup_module(console=False); top.error("x")') == []


def test_messages_reach_the_root_logger_only_when_told_to() -> None:
    code = """
seen = io.StringIO()
logging.basicConfig(stream=seen, format="%(message)s")
setup(console=False); top.warning("a")
setup(console=False, propagate=True); top.warning("b")
setup_module(console=False); top.warning("c")
setup_module(console=False, propagate=True); top.warning("d")
assert seen.getvalue() == "b\\nd\\n", seen.getvalue()
"""
    assert stderr_of(code) == []


def test_one_logger_can_be_set_up_alone() -> None:
    code = """
setup()
assert setup_module("DEBUG", name="myagent") is other
other.debug("mine"); top.info("yours"); top.debug("hidden")
"""
    assert [line.split()[-1] for line in stderr_of(code)] == ["mine", "yours"]


def test_files_are_written_for_all_or_by_logger(tmp_path: Path) -> None:
    every, only, mine = (tmp_path / "deep" / name for name in ("every.log", "store.log", "mine.log"))
    stderr_of('setup(files=sys.argv[1], console=False); store.info("über"); top.info("x")', every)
    assert [line.split()[-1] for line in every.read_text(encoding="utf-8").splitlines()] == ["über", "x"]
    code = """
setup(files={"agentlightning.store": sys.argv[1], "myagent": sys.argv[2], "agentlightning.runner": sys.argv[1]})
store.info("a"); top.info("b"); other.info("c"); logging.getLogger("agentlightning.runner").info("d")
"""
    assert [line.split()[-1] for line in stderr_of(code, only, mine)] == ["a", "b", "d"]
    assert [line.split()[-1] for line in only.read_text().splitlines()] == ["a", "d"]
    assert [line.split()[-1] for line in mine.read_text().splitlines()] == ["c"]


def test_handlers_and_formatters_of_the_caller() -> None:
    code = """
plain, own = io.StringIO(), io.StringIO()
handlers = [logging.StreamHandler(plain), logging.StreamHandler(own)]
handlers[1].setFormatter(logging.Formatter("own %(message)s"))
for _ in range(2):
    setup(extra_handlers=handlers, formatter=logging.Formatter("mine %(message)s"))
top.info("x")
assert plain.getvalue() == "mine x\\n"
assert own.getvalue() == "own x\\n"
"""
    assert stderr_of(code) == ["mine x"]


def test_other_loggers_can_be_silenced() -> None:
    code = """
logging.basicConfig(stream=sys.stderr)
setup(disable_existing_loggers=True)
other.error("silenced"); store.info("kept"); logging.getLogger("new").error("later")
setup_module(name="myagent", disable_existing_loggers=True)
other.info("back"); top.error("silenced")
"""
    assert [line.split()[-1].split(":")[-1] for line in stderr_of(code)] == ["kept", "later", "back"]


def test_color_is_for_terminals() -> None:
    code = 'setup(); top.error("red"); setup(color=False); top.error("plain")'
    red, plain = on_terminal(code, NO_COLOR="").splitlines()
    assert "\033[31mERROR   \033[0m" in red
    assert "\033" not in plain
    assert "\033" not in on_terminal(code, NO_COLOR="1")
    assert "\033" not in on_terminal(code, TERM="dumb")
    assert not any("\033" in line for line in stderr_of(code))


def test_configure_logger_is_deprecated() -> None:
    code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert configure_logger(logging.DEBUG) is top
assert [(one.category, one.filename) for one in caught] == [(DeprecationWarning, "<string>")]
assert "setup_logging" in str(caught[0].message)
top.debug("x")
"""
    assert len(stderr_of(code)) == 1


def test_setting_up_logging_imports_next_to_nothing() -> None:
    code = 'assert not {"grpc", "opentelemetry", "pydantic"} & set(sys.modules)'
    assert stderr_of(code) == []
