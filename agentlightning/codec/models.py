"""Building pydantic models of data that needs no validation."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)

set_slot = object.__setattr__
"""Sets what pydantic keeps of a model beside its class, past its own `__setattr__`."""


def build(
    model: type[Model],
    fields: dict[str, Any],
    extra: dict[str, Any] | None = None,
    private: dict[str, Any] | None = None,
) -> Model:
    """Returns a model that holds just what is given.

    It does what `model_construct` does at a fifth of the cost, because it looks at no aliases and no defaults.

    Args:
        model: The class.
        fields: A value for every field.
        extra: The further fields; `{}` at least for a class that allows them, `None` for any other.
        private: A value for every private attribute, `None` for a class without any.

    Returns:
        The model. It owns the dictionaries that were given.
    """
    instance = model.__new__(model)
    set_slot(instance, "__dict__", fields)
    set_slot(instance, "__pydantic_fields_set__", set(fields))
    set_slot(instance, "__pydantic_extra__", extra)
    set_slot(instance, "__pydantic_private__", private)
    return instance
