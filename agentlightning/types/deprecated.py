"""Models that only the legacy client and server still speak."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

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
        frame = inspect.currentframe()
        caller = frame.f_back.f_globals.get("__name__", "") if frame and frame.f_back else ""
        if caller.partition(".")[0] != "agentlightning":
            warnings.warn(cls.__deprecated__, DeprecationWarning, stacklevel=2)
        return super().__call__(*args, **kwargs)
