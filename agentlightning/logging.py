"""Where this library's log messages go. A library stays silent until its user asks: nothing here runs by itself."""

from __future__ import annotations

import copy
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

__all__ = ["configure_logger", "setup", "setup_logging", "setup_module", "setup_module_logging"]

PACKAGE = "agentlightning"
"""Name of the logger above all those of this library."""
FORMAT = "%(asctime)s %(levelname)-8s [%(process)d %(name)s] %(message)s"
"""How a message is written: local time, level, process, logger, text."""

_WARNINGS = "py.warnings"  # the logger that Python writes captured warnings to
_CODES = {logging.DEBUG: "2", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}

_handlers: dict[str, list[logging.Handler]] = {}
"""What earlier calls attached, by logger."""


def setup(
    level: int | str = "INFO",
    *,
    console: bool = True,
    color: bool | Mapping[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
    capture_warnings: bool = False,
    submodule_levels: Mapping[str, int | str] | None = None,
    extra_handlers: Sequence[logging.Handler] | None = None,
    formatter: logging.Formatter | None = None,
    apply_to: Sequence[str] | None = None,
    files: str | Mapping[str, str] | None = None,
) -> None:
    """Has the messages of this library written to stderr, files and handlers of the caller's.

    Every call starts over: it takes back what earlier calls of this module set up, and nothing else.

    Args:
        level: The least level to write, as a number or a name.
        console: Write to stderr.
        color: Color the level there, if that is a terminal and `NO_COLOR` is not set. A mapping, with which release
            0.3 set colors one by one, counts as True.
        propagate: Have the handlers of the root logger write the messages too.
        disable_existing_loggers: Silence every logger that exists and is not set up here, nor below one that is.
        capture_warnings: Write Python's warnings the same way.
        submodule_levels: Other levels, by the full name of the logger, such as `agentlightning.store`.
        extra_handlers: More places to write to. They keep their formatters, if they have any.
        formatter: How to write a message; time, level, process, logger and text unless given.
        apply_to: Full names of other loggers to set up in the same way.
        files: A file to append to, or one for each logger by its full name. Missing folders are made.

    Raises:
        ValueError: A level does not exist.
        OSError: A file cannot be written.
    """
    if _WARNINGS in _handlers:
        logging.captureWarnings(False)
    _take_back(list(_handlers))
    shared = _console_handlers(console, color, formatter)
    for handler in extra_handlers or ():
        if handler.formatter is None:
            handler.setFormatter(_formatter(formatter))
        shared.append(handler)
    names = [PACKAGE, *(apply_to or ()), *([_WARNINGS] if capture_warnings else [])]
    attached = {name: list(shared) for name in names}
    written: dict[Path, logging.Handler] = {}
    for name, file in ({PACKAGE: files} if isinstance(files, str) else files or {}).items():
        path = Path(file).resolve()
        if path not in written:
            written[path] = _file_handler(path, formatter)
        attached.setdefault(name, []).append(written[path])
    for name, handlers in attached.items():
        _attach(name, level, handlers, propagate=propagate or name not in names)
    for name, own_level in (submodule_levels or {}).items():
        _handlers.setdefault(name, [])
        logging.getLogger(name).setLevel(_level(own_level))
    if disable_existing_loggers:
        _disable_all_but(attached)
    if capture_warnings:
        logging.captureWarnings(True)


def setup_module(
    level: int | str = "INFO",
    *,
    name: str = PACKAGE,
    console: bool = True,
    color: bool | Mapping[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
) -> logging.Logger:
    """Has the messages of one logger written to stderr, and leaves the others as they are.

    Args:
        level: The least level to write, as a number or a name.
        name: Full name of the logger.
        console: Write to stderr.
        color: Color the level there; see `setup`.
        propagate: Have the loggers above write the messages too.
        disable_existing_loggers: Silence every other logger that exists, but for those below this one.

    Returns:
        The logger.

    Raises:
        ValueError: The level does not exist.
    """
    _take_back([name])
    _attach(name, level, _console_handlers(console, color, None), propagate=propagate)
    if disable_existing_loggers:
        _disable_all_but([name])
    return logging.getLogger(name)


setup_logging = setup
"""The name of `setup` in the package `agentlightning`."""
setup_module_logging = setup_module
"""The name of `setup_module` in the package `agentlightning`."""


def configure_logger(level: int = logging.INFO, name: str = PACKAGE) -> logging.Logger:
    """Deprecated: does what `setup_module` does."""
    warnings.warn(
        "configure_logger is deprecated; call agentlightning.setup_logging() instead", DeprecationWarning, stacklevel=2
    )
    return setup_module(level, name=name)


class _OwnFile(logging.FileHandler):
    """A file that this module has opened and therefore closes."""


class _ColorFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        # A copy: other handlers write the same record.
        colored = copy.copy(record)
        colored.levelname = f"\033[{_CODES.get(record.levelno, '0')}m{record.levelname:<8}\033[0m"
        return super().formatMessage(colored)


def _formatter(given: logging.Formatter | None) -> logging.Formatter:
    return given or logging.Formatter(FORMAT)


def _console_handlers(
    console: bool, color: bool | Mapping[str, Any], formatter: logging.Formatter | None
) -> list[logging.Handler]:
    if not console:
        return []
    handler = logging.StreamHandler(sys.stderr)
    colored = color is not False and formatter is None and _shows_color(sys.stderr)
    handler.setFormatter(_ColorFormatter(FORMAT) if colored else _formatter(formatter))
    return [handler]


def _shows_color(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _file_handler(path: Path, formatter: logging.Formatter | None) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _OwnFile(path, encoding="utf-8")
    handler.setFormatter(_formatter(formatter))
    return handler


def _attach(name: str, level: int | str, handlers: list[logging.Handler], *, propagate: bool) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(_level(level))
    logger.propagate = propagate
    logger.disabled = False
    # Without any handler Python would write warnings to stderr.
    _handlers[name] = handlers or [logging.NullHandler()]
    for handler in _handlers[name]:
        logger.addHandler(handler)


def _take_back(names: list[str]) -> None:
    for name in names:
        logger = logging.getLogger(name)
        for handler in _handlers.pop(name, []):
            logger.removeHandler(handler)
            if isinstance(handler, _OwnFile):
                handler.close()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def _level(level: int | str) -> int | str:
    return level.upper() if isinstance(level, str) else level


def _disable_all_but(names: Sequence[str] | Mapping[str, Any]) -> None:
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and not any(f"{name}.".startswith(f"{kept}.") for kept in names):
            logger.disabled = True
