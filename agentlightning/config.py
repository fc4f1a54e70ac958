"""`lightning_cli`: objects configured from the command line."""

from __future__ import annotations

import argparse
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Optional,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from agentlightning.trainer.init_utils import constructor_parameters

__all__ = ["lightning_cli"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")

_NONE_WORDS: Final = frozenset({"none", "null", "~", "nil"})
_BOOL_WORDS: Final = {
    **dict.fromkeys(("yes", "true", "t", "y", "1", "on"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0", "off"), False),
}
_ARGUMENT: Final = re.compile(r" {4}(\w+)(?: \([^)]*\))?: (.*)")

Read = Callable[[str], Any]
"""Reads one word of the command line; raises ValueError if it does not fit."""


class _Kind(NamedTuple):
    """One way to read a word."""

    order: int
    """Which of several to try first: those that fit the fewest words."""
    shown: str
    """What the help calls it."""
    read: Read


@overload
def lightning_cli() -> tuple[()]: ...
@overload
def lightning_cli(cls: type[T], /) -> T: ...
@overload
def lightning_cli(cls: type[T], cls1: type[T1], /) -> tuple[T, T1]: ...
@overload
def lightning_cli(cls: type[T], cls1: type[T1], cls2: type[T2], /) -> tuple[T, T1, T2]: ...
@overload
def lightning_cli(cls: type[T], cls1: type[T1], cls2: type[T2], cls3: type[T3], /) -> tuple[T, T1, T2, T3]: ...
@overload
def lightning_cli(*classes: type[Any]) -> tuple[Any, ...]: ...
def lightning_cli(*classes: type[Any]) -> Any:
    """Makes an object of each class, with what the command line says.

    Each parameter of a constructor is an option, such as `--trainer.n-runners 4` for `Trainer(n_runners=4)`. Its
    type hint says how the option is read: numbers, strings, paths, `Literal`s, enumerations by name or value, and
    booleans (`true`, `no`, `1`, ..., nothing means true) as one word, lists as any number of words, dictionaries and
    pydantic models as JSON. `none` is None where the hint allows that. A component spec of `Trainer` is a short name,
    an import path, or JSON such as `'{"type": "shm", "n_runners": 4}'`. Parameters of other types are no options.

    Args:
        *classes: The classes, which must differ in their names. A constructor that takes `**kwargs` is taken to hand
            them on to that of its base class.

    Returns:
        The object of one class, or a tuple of those of several.

    Raises:
        ValueError: Two classes have the same name.
        SystemExit: The command line is wrong, or asks for help.
        Exception: What a constructor raises.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    prefixes = [cls.__name__.lower() for cls in classes]
    if len(set(prefixes)) < len(prefixes):
        raise ValueError(f"the classes must differ in their names: {', '.join(prefixes)}")
    for cls, prefix in zip(classes, prefixes, strict=True):
        _add_options(parser.add_argument_group(cls.__name__), cls, prefix)
    given = vars(parser.parse_args())
    made = tuple(
        cls(**{name: given[f"{prefix}.{name}"] for name in constructor_parameters(cls) if f"{prefix}.{name}" in given})
        for cls, prefix in zip(classes, prefixes, strict=True)
    )
    return made[0] if len(made) == 1 else made


def _add_options(group: argparse._ArgumentGroup, cls: type[Any], prefix: str) -> None:
    hints = _hints(cls)
    descriptions = _descriptions(cls)
    for name, parameter in constructor_parameters(cls).items():
        hint = hints.get(name, _guess(parameter))
        optional = type(None) in _members(hint)
        options = _reading(hint)
        if options is None:
            continue
        default = None if parameter.default is parameter.empty and optional else parameter.default
        text = descriptions.get(name, "")
        if default is not parameter.empty and default is not None:
            text = f"{text} (default: {default})".strip()
        group.add_argument(
            f"--{prefix}.{name.replace('_', '-')}",
            dest=f"{prefix}.{name}",
            required=default is parameter.empty,
            # A default stays that of the constructor.
            default=None if parameter.default is parameter.empty else argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **options,
        )


def _reading(hint: Any) -> dict[str, Any] | None:
    """Returns how argparse is to read an option of a type; None if it cannot."""
    members = _members(hint)
    kinds = [kind for kind in map(_kind, members) if kind is not None]
    if kinds:
        kinds.sort(key=lambda kind: kind.order)
        if type(None) in members:
            kinds.insert(0, _Kind(0, "none", _read_none))
        options: dict[str, Any] = {"type": _first_of(kinds), "metavar": "|".join(kind.shown for kind in kinds)}
        if bool in members:
            options.update(nargs="?", const=True)
        return options
    for member in members:
        item = _item_hint(member)
        may_be_none = type(None) in members
        words = None if item is None else _reading(Optional[item] if may_be_none else item)  # noqa: UP045 - it runs
        if words is not None:
            words.pop("const", None)
            return {**words, "nargs": "*", "action": _ListOrNone if may_be_none else "store"}
    return None


class _ListOrNone(argparse.Action):
    """Stores a list, or None where that is the only word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if None in values and len(values) > 1:
            raise argparse.ArgumentError(self, "none stands alone")
        setattr(namespace, self.dest, None if None in values else values)


def _kind(hint: Any) -> _Kind | None:
    if get_origin(hint) is Literal:
        return _Kind(1, "{" + ",".join(map(str, get_args(hint))) + "}", _one_of({str(v): v for v in get_args(hint)}))
    if isinstance(hint, type) and issubclass(hint, Enum):
        members = {str(member.value): member for member in hint} | dict(hint.__members__)
        return _Kind(1, "{" + ",".join(hint.__members__) + "}", _one_of(members))
    if hint is bool:
        return _Kind(2, "bool", lambda word: _one_of(_BOOL_WORDS)(word.lower()))
    if hint is int or hint is float:
        return _Kind(3 if hint is int else 4, hint.__name__, hint)
    if _is_mapping(hint):
        return _Kind(5, "JSON", _json_reader(hint))
    if hint is Path:
        return _Kind(6, "PATH", Path)
    if hint is str or hint is Any:
        return _Kind(7, "str", str)
    return None


def _first_of(kinds: Sequence[_Kind]) -> Read:
    def read(word: str) -> Any:
        faults = []
        for kind in kinds:
            try:
                return kind.read(word)
            except ValueError as error:
                faults.append(str(error))
        raise argparse.ArgumentTypeError("; ".join(faults))

    return read


def _read_none(word: str) -> None:
    if word.lower() not in _NONE_WORDS:
        raise ValueError(f"{word!r} is not none")


def _one_of(values: Mapping[str, Any]) -> Read:
    def read(word: str) -> Any:
        if word not in values:
            raise ValueError(f"{word!r} is none of {', '.join(values)}")
        return values[word]

    return read


def _json_reader(hint: Any) -> Read:
    def read(word: str) -> Any:
        # Imported here because it takes a while, and few options need it.
        from pydantic import TypeAdapter

        if not word.lstrip().startswith("{"):
            raise ValueError(f"{word!r} is not a JSON object")
        try:
            return TypeAdapter(hint).validate_json(word)
        except ValueError as error:
            # Anything else that the option may be, a string above all, does not begin like this.
            raise argparse.ArgumentTypeError(f"{word!r} is not the JSON wanted: {error}") from error

    return read


def _is_mapping(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if not isinstance(kind, type):
        return False
    return issubclass(kind, Mapping) or any(base.__name__ == "BaseModel" for base in kind.__mro__)


def _item_hint(hint: Any) -> Any | None:
    """Returns the hint of the items of a list; None if it is no list."""
    if hint is list:
        return str
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is list or kind is Sequence or (kind is tuple and arguments[1:] == (...,)):
        return arguments[0]
    return None


def _members(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _guess(parameter: inspect.Parameter) -> Any:
    kind = type(parameter.default)
    return kind if kind in (bool, int, float) else str


def _hints(cls: type[Any]) -> dict[str, Any]:
    """Returns the type hints of the constructor, of its bases' too; `object` for those that cannot be resolved."""
    hints: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        init = vars(owner).get("__init__")
        for name, hint in getattr(init, "__annotations__", {}).items():
            one = types.SimpleNamespace(__annotations__={name: hint})
            try:
                hints[name] = get_type_hints(one, getattr(init, "__globals__", {}), include_extras=True)[name]
            except Exception:  # noqa: BLE001 - a name that only type checkers see
                hints[name] = object
    return hints


def _descriptions(cls: type[Any]) -> dict[str, str]:
    """Returns what docstrings say, under `Args:`, about the parameters of the constructor and those of its bases."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        for doc in (owner.__dict__.get("__doc__"), getattr(vars(owner).get("__init__"), "__doc__", None)):
            _, _, section = inspect.cleandoc(doc or "").partition("Args:\n")
            name = None
            for line in section.splitlines():
                if match := _ARGUMENT.fullmatch(line):
                    name = match[1]
                    found[name] = match[2]
                elif name is not None and line.startswith(" " * 8):
                    found[name] += " " + line.strip()
                else:
                    break
    return found
