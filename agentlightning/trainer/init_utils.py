"""Component specs: the ways in which a part of a trainer can be given, and how the part is made of each."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, overload

from agentlightning.utils.callables import is_coroutine_callable

T = TypeVar("T")

ComponentSpec = Union[T, type[T], Callable[[], T], str, dict[str, Any]]  # noqa: UP007 - it is subscripted when it runs
"""How to say which component is meant: the component itself, its class, a function that makes it, its import path or
short name, or a dictionary of `type` (a path, name or class) and constructor arguments."""

OptionalDefaults = Mapping[str, Any]
"""Arguments for a constructor that has parameters of these names and was given none. A function is called for its
value."""


@overload
def build_component(
    spec: object,
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: Callable[[], T],
    allow_none: bool = False,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | str | None = None,
    type_error_fmt: str | None = None,
    invalid_spec_error_fmt: str | None = None,
    registry: Mapping[str, str | type[Any]] | None = None,
) -> T: ...
@overload
def build_component(
    spec: object,
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: None = None,
    allow_none: bool = False,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | str | None = None,
    type_error_fmt: str | None = None,
    invalid_spec_error_fmt: str | None = None,
    registry: Mapping[str, str | type[Any]] | None = None,
) -> T | None: ...
def build_component(
    spec: object,
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: Callable[[], T] | None = None,
    allow_none: bool = False,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | str | None = None,
    type_error_fmt: str | None = None,
    invalid_spec_error_fmt: str | None = None,
    registry: Mapping[str, str | type[Any]] | None = None,
) -> T | None:
    """Makes a component of a spec.

    An instance of `expected_type` is the component. A class is instantiated. Any other callable is called without
    arguments. A string is a short name of `registry` or an import path, which may lead to any of these. A dictionary
    names one of them as `type` and holds the arguments.

    Args:
        spec: The spec; see `ComponentSpec`. None means the default.
        expected_type: What the component must be an instance of.
        spec_name: What errors call it.
        default_factory: Makes the component when the spec is None.
        allow_none: Whether None means that there is none, where there is no `default_factory`.
        optional_defaults: What constructors get if they have such parameters and the spec does not say otherwise.
        dict_requires_type: Whether a dictionary without `type` is an error.
        dict_default_cls: The class, or its import path, that such a dictionary means otherwise.
        type_error_fmt: Text of the error about a component of another type; may use `{spec_name}`, `{type_name}` and
            `{expected_type}`.
        invalid_spec_error_fmt: Text of the error about a spec that is none; may use `{spec_name}`, `{actual_type}` and
            `{expected_type}`.
        registry: Import paths, or classes, by short name.

    Raises:
        TypeError: The component is not an `expected_type`, or the constructor does not take the arguments.
        ValueError: The spec is none, or a name or key in it is wrong.
        ImportError: The import path leads nowhere.
    """
    # A class has the methods of a protocol as well, and is not the component for that.
    if isinstance(spec, expected_type) and not isinstance(spec, type):
        return spec
    if spec is None and default_factory is None and allow_none:
        return None
    component: object
    if spec is None and default_factory is not None:
        component = default_factory()
    elif isinstance(spec, (str, dict)):
        component = instantiate_from_spec(
            spec,
            spec_name=spec_name,
            optional_defaults=optional_defaults,
            dict_requires_type=dict_requires_type,
            dict_default_cls=dict_default_cls,
            registry=registry,
            expected_type=expected_type,
        )
    elif callable(spec):
        component = _made_of(spec, {}, optional_defaults, spec_name)
    else:
        text = invalid_spec_error_fmt or (
            "{spec_name} must be a {expected_type}, its class, a function that makes one, an import path "
            "or a dictionary with a `type`, not {actual_type}"
        )
        raise ValueError(_filled(text, spec_name, spec, expected_type))
    if not isinstance(component, expected_type):
        text = type_error_fmt or "{spec_name} must be an instance of {expected_type}, not of {type_name}"
        raise TypeError(_filled(text, spec_name, component, expected_type))
    return component


def load_class(path: str) -> Any:
    """Imports what a path such as `package.module.Class` leads to.

    Raises:
        ValueError: It is no path.
        ImportError: There is no such module, or it has no such name.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or not name:
        raise ValueError(f"{path!r} is no import path such as 'package.module.Class'")
    module = importlib.import_module(module_name)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImportError(f"the module {module_name} has no {name!r}", name=module_name) from None


def instantiate_component(
    cls: type[T],
    provided_kwargs: Mapping[str, Any] | None = None,
    optional_defaults: OptionalDefaults | None = None,
) -> T:
    """Instantiates a class.

    Args:
        cls: The class.
        provided_kwargs: Arguments of its constructor.
        optional_defaults: Further arguments, of which the constructor gets those that it has parameters for. A
            constructor that takes `**kwargs` is taken to hand them on to that of its base class.

    Raises:
        TypeError: The constructor does not take the arguments, or lacks some.
    """
    kwargs = dict(provided_kwargs or {})
    accepted = constructor_parameters(cls)
    for name, value in (optional_defaults or {}).items():
        if name in accepted and name not in kwargs:
            kwargs[name] = value() if inspect.isfunction(value) else value
    return cls(**kwargs)


def instantiate_from_spec(
    spec: str | dict[str, Any],
    *,
    spec_name: str,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | str | None = None,
    registry: Mapping[str, str | type[Any]] | None = None,
    expected_type: type[Any] | None = None,
) -> Any:
    """Makes a component of a string or dictionary; see `build_component`.

    Args:
        spec: The string or dictionary.
        spec_name: What errors call it.
        optional_defaults: What constructors get if they have such parameters and the spec does not say otherwise.
        dict_requires_type: Whether a dictionary without `type` is an error.
        dict_default_cls: The class, or its import path, that such a dictionary means otherwise.
        registry: Import paths, or classes, by short name.
        expected_type: An instance of this at the end of an import path is the component itself.

    Raises:
        TypeError: The spec is neither, or the constructor does not take the arguments.
        ValueError: A name or key in the spec is wrong.
        ImportError: The import path leads nowhere.
    """
    known = dict(registry or {})
    if isinstance(spec, str):
        target, kwargs = _resolved(spec, known, spec_name), {}
    elif isinstance(spec, dict):
        kwargs = dict(spec)
        named = kwargs.pop("type", None)
        if named is None and "name" in kwargs and kwargs["name"] in known:
            named = kwargs.pop("name")
        if named is None:
            if dict_requires_type or dict_default_cls is None:
                raise ValueError(f"the dictionary for {spec_name} needs a `type`: {_possible(known)}")
            named = dict_default_cls
        target = _resolved(named, known, spec_name)
    else:
        raise TypeError(f"{spec_name} must be a string or a dictionary here, not {type(spec).__name__}")
    if expected_type is not None and isinstance(target, expected_type) and not isinstance(target, type):
        if kwargs:
            raise ValueError(f"{spec_name} names a finished {type(target).__name__}, which takes no {sorted(kwargs)}")
        return target
    if not callable(target):
        raise ValueError(f"{spec_name} names {target!r}, which is neither a class nor a function")
    return _made_of(target, kwargs, optional_defaults, spec_name)


def constructor_parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """Returns the named parameters of a constructor; those of the base's too where it takes `**kwargs`."""
    found: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]  # type: ignore[misc]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _resolved(named: object, registry: Mapping[str, str | type[Any]], spec_name: str) -> Any:
    target = registry.get(named, named) if isinstance(named, str) else named
    if not isinstance(target, str):
        return target
    if "." not in target:
        raise ValueError(f"{spec_name} {target!r} is not known: {_possible(registry)}")
    return load_class(target)


def _possible(registry: Mapping[str, Any]) -> str:
    names = ", ".join(map(repr, registry))
    return f"it may be {names}{' or ' if names else ''}an import path such as 'package.module.Class'"


def _made_of(
    target: Callable[..., Any], kwargs: Mapping[str, Any], optional_defaults: OptionalDefaults | None, spec_name: str
) -> Any:
    if not isinstance(target, type) and is_coroutine_callable(target):
        raise TypeError(f"{spec_name} cannot be made of {target!r}, which is async; only plain functions make parts")
    try:
        if isinstance(target, type):
            return instantiate_component(target, kwargs, optional_defaults)
        return target(**kwargs)
    except TypeError as error:
        raise TypeError(f"{spec_name} cannot be made of {target!r} with {dict(kwargs)!r}: {error}") from error


def _filled(text: str, spec_name: str, value: object, expected_type: type[Any]) -> str:
    kind = type(value).__name__
    return text.format(spec_name=spec_name, type_name=kind, actual_type=kind, expected_type=expected_type.__name__)
