"""Component specs: every way to give a part, and what is said about those that are none."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pytest

from agentlightning.trainer import build_component
from agentlightning.trainer.init_utils import instantiate_component, instantiate_from_spec, load_class

HERE = __name__


@dataclass
class Engine:
    power: int = 1
    fuel: str = "none"


@dataclass
class Turbo(Engine):
    boost: int = 2


class Wrapped(Engine):
    def __init__(self, name: str = "w", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name


finished_engine = Engine(power=42)


def make_engine(power: int = 7) -> Engine:
    return Engine(power=power)


def build(spec: object, **options: Any) -> Any:
    return build_component(spec, expected_type=Engine, spec_name="engine", **options)


REGISTRY = {"turbo": f"{HERE}.Turbo", "plain": Engine}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Engine(power=3), Engine(power=3)),
        (Turbo, Turbo()),
        (make_engine, Engine(power=7)),
        (functools.partial(Turbo, boost=9), Turbo(boost=9)),
        (f"{HERE}.Turbo", Turbo()),
        (f"{HERE}.make_engine", Engine(power=7)),
        (f"{HERE}.finished_engine", Engine(power=42)),
        ("turbo", Turbo()),
        ("plain", Engine()),
        ({"type": "turbo", "boost": 5}, Turbo(boost=5)),
        ({"name": "turbo", "boost": 5}, Turbo(boost=5)),
        ({"type": f"{HERE}.Turbo", "power": 6}, Turbo(power=6)),
        ({"type": Turbo, "power": 6}, Turbo(power=6)),
        ({"type": f"{HERE}.make_engine", "power": 8}, Engine(power=8)),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)
def test_a_spec_makes_a_component(spec: object, expected: Engine) -> None:
    assert build(spec, registry=REGISTRY) == expected


def test_an_instance_is_taken_as_it_is() -> None:
    engine = Engine()
    assert build(engine) is engine
    assert build(f"{HERE}.finished_engine") is finished_engine


def test_none_means_the_default() -> None:
    assert build(None, default_factory=Turbo) == Turbo()
    assert build(None, allow_none=True) is None
    assert build(None, default_factory=Turbo, allow_none=True) == Turbo()
    with pytest.raises(ValueError, match=r"engine must be a Engine.* not NoneType"):
        build(None)
    with pytest.raises(TypeError, match="engine must be an instance of Engine, not of dict"):
        build(None, default_factory=dict)


def test_a_dictionary_without_a_type_may_mean_a_default_class() -> None:
    for default in (Turbo, f"{HERE}.Turbo"):
        assert build({"boost": 3}, dict_requires_type=False, dict_default_cls=default) == Turbo(boost=3)
    with pytest.raises(ValueError, match="the dictionary for engine needs a `type`: it may be 'turbo', 'plain' or an"):
        build({"boost": 3}, registry=REGISTRY)
    with pytest.raises(ValueError, match="needs a `type`"):
        build({"boost": 3}, dict_requires_type=False)


def test_a_spec_is_left_as_it_was() -> None:
    spec = {"type": f"{HERE}.Turbo", "boost": 5}
    assert build(spec) == build(spec)
    assert spec == {"type": f"{HERE}.Turbo", "boost": 5}


def test_constructors_get_the_defaults_that_they_take() -> None:
    defaults = {"power": 5, "boost": lambda: 6, "wheels": 4}
    assert build(Engine, optional_defaults=defaults) == Engine(power=5)
    assert build(f"{HERE}.Turbo", optional_defaults=defaults) == Turbo(power=5, boost=6)
    assert build({"type": Turbo, "power": 1}, optional_defaults=defaults) == Turbo(power=1, boost=6)
    assert build({"type": Wrapped, "name": "n"}, optional_defaults=defaults).power == 5


def test_a_component_of_another_type_is_refused() -> None:
    for spec in ("collections.OrderedDict", OrderedDict, lambda: OrderedDict(), {"type": "collections.OrderedDict"}):
        with pytest.raises(TypeError, match="engine must be an instance of Engine, not of OrderedDict"):
            build(spec)
    with pytest.raises(TypeError, match="engine: OrderedDict is no Engine"):
        build(OrderedDict, type_error_fmt="{spec_name}: {type_name} is no {expected_type}")


def test_what_is_no_spec_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"engine must be a Engine, its class, .* or a dictionary with a `type`, not int"
    ):
        build(3)
    with pytest.raises(ValueError, match="int for a Engine"):
        build(3, invalid_spec_error_fmt="{actual_type} for a {expected_type}")


def test_paths_that_lead_nowhere_are_named() -> None:
    with pytest.raises(ValueError, match="engine 'turbo' is not known: it may be an import path such as"):
        build("turbo")
    with pytest.raises(ImportError, match="no_such_module"):
        build("no_such_module.Engine")
    with pytest.raises(ImportError, match=f"the module {HERE} has no 'Missing'"):
        build(f"{HERE}.Missing")
    with pytest.raises(ValueError, match="neither a class nor a function"):
        build(f"{HERE}.HERE")


def test_arguments_that_do_not_fit_are_named() -> None:
    with pytest.raises(TypeError, match=r"engine cannot be made of .*Turbo.* with \{'wings': 2\}: .*wings"):
        build({"type": "turbo", "wings": 2}, registry=REGISTRY)
    with pytest.raises(ValueError, match=r"engine names a finished Engine, which takes no \['power'\]"):
        build({"type": f"{HERE}.finished_engine", "power": 2})


def test_an_async_function_makes_no_component() -> None:
    async def make() -> Engine:
        return Engine()

    for spec in (make, {"type": make}):
        with pytest.raises(TypeError, match=r"engine cannot be made of .*make.*, which is async"):
            build(spec)

    class AsyncEngine(Engine):
        async def __call__(self) -> None: ...

    assert isinstance(build(AsyncEngine), AsyncEngine)


def test_a_class_is_not_taken_for_an_instance_of_a_protocol() -> None:
    @runtime_checkable
    class Starts(Protocol):
        def start(self) -> int: ...

    class Starter:
        def start(self) -> int:
            return 1

    started = build_component(Starter, expected_type=Starts, spec_name="starter")
    assert isinstance(started, Starter)


def test_the_parts_of_build_component_work_alone() -> None:
    assert load_class("collections.OrderedDict") is OrderedDict
    with pytest.raises(ValueError, match="'Engine' is no import path"):
        load_class("Engine")
    assert instantiate_component(Turbo, {"boost": 3}, {"power": 4, "wheels": 2}) == Turbo(power=4, boost=3)
    assert instantiate_from_spec({"type": Turbo, "boost": 3}, spec_name="engine") == Turbo(boost=3)
    with pytest.raises(TypeError, match="engine must be a string or a dictionary here, not int"):
        instantiate_from_spec(3, spec_name="engine")  # type: ignore[arg-type]
