"""What is deprecated says so to the one who can change it, with the successor, and to nobody else."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
from pydantic import BaseModel, TypeAdapter

from agentlightning import GenericResponse, RolloutLegacy, Task, TaskIfAny

DEPRECATED = [
    (RolloutLegacy, {"rollout_id": "ro-1", "final_reward": 0.5}, "use Rollout"),
    (GenericResponse, {"message": "m"}, "the methods of LightningStore"),
]


@pytest.mark.parametrize(("model", "fields", "successor"), DEPRECATED)
def test_making_a_deprecated_model_names_the_successor_and_the_line(
    model: type[BaseModel], fields: dict[str, object], successor: str
) -> None:
    with pytest.warns(DeprecationWarning, match=successor) as caught:
        made = model(**fields)
    assert [warning.filename for warning in caught] == [__file__]
    assert made.model_dump(exclude_unset=True) == fields


@pytest.mark.parametrize(("model", "fields", "successor"), DEPRECATED)
def test_reading_and_copying_one_is_silent(model: type[BaseModel], fields: dict[str, object], successor: str) -> None:
    read = model.model_validate(fields)
    assert model.model_validate_json(read.model_dump_json()) == read
    assert pickle.loads(pickle.dumps(read)) == copy.deepcopy(read) == read.model_copy() == read


def test_a_deprecated_model_inside_of_another_value_is_silent() -> None:
    result = TypeAdapter(RolloutLegacy | None).validate_python({"rollout_id": "ro-1"})
    assert isinstance(result, RolloutLegacy)


def test_the_code_of_this_package_is_not_told() -> None:
    legacy = {"__name__": "agentlightning.client", "RolloutLegacy": RolloutLegacy}
    own = {"__name__": "agentlightning_extras", "RolloutLegacy": RolloutLegacy}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec("RolloutLegacy(rollout_id='ro-1')", legacy)
        assert caught == []
        exec("RolloutLegacy(rollout_id='ro-1')", own)
    assert [warning.category for warning in caught] == [DeprecationWarning]


@pytest.mark.parametrize(("model", "fields", "successor"), DEPRECATED)
def test_editors_and_schemas_know_what_is_deprecated(
    model: type[BaseModel], fields: dict[str, object], successor: str
) -> None:
    assert successor in model.__deprecated__  # type: ignore[attr-defined]
    assert model.model_json_schema()["deprecated"] is True


def test_a_task_is_not_deprecated_because_agents_are_given_one() -> None:
    task = Task(rollout_id="ro-1", input="x")
    assert TaskIfAny(is_available=True, task=task).task == task
