"""Models that only the legacy client and server still speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from agentlightning.utils.deprecation import warn_of_use

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class DeprecatedModel(ModelMetaclass):
    """The metaclass of models marked with `typing_extensions.deprecated`: making one by its name warns.

    Validating, copying and unpickling do not, nor does this package's own legacy code: the one who is told is the one
    who can change the line.
    """

    __deprecated__: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  what a metaclass makes are classes
        """Warns the caller, and makes the model."""
        warn_of_use(cls.__deprecated__)
        return super().__call__(*args, **kwargs)
