"""Tasks as rows of the files that verl reads, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agentlightning.codec.payload import from_payload, to_payload
from agentlightning.types import Dataset, RolloutMode
from lightning_store import v1

PROMPT: Final = "prompt"
"""The column that verl takes the prompt from: the task as a text, for its log and its limit of lengths."""
_TASK: Final = "agentlightning_task"
_MODE: Final = "agentlightning_mode"
# What verl adds to a row. The first is a tensor, the others say nothing of the task.
_OF_VERL: Final = frozenset(
    {"dummy_tensor", "agent_name", "global_steps", "index", "interaction_kwargs", "priority", "session_id"}
    | {"tools_kwargs", "uid", "__rollout_n__"}
)
_VALIDATION_SPLITS: Final = frozenset({"val", "validation", "test"})


def write_rows(path: Path, tasks: Dataset[Any], mode: RolloutMode) -> None:
    """Writes tasks as a Parquet file that verl's own dataset class reads.

    Args:
        path: The file.
        tasks: The tasks; anything that an input of a rollout may be.
        mode: The mode of their rollouts.

    Raises:
        TypeError: A task is nothing that the store can keep; the message names the part.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for index in range(len(tasks)):
        text = to_payload(tasks[index], f"dataset[{index}]").data.decode()
        prompt = tasks[index] if isinstance(tasks[index], str) else text
        rows.append(
            {
                PROMPT: [{"role": "user", "content": prompt}],
                "data_source": "agentlightning",
                "reward_model": {"style": "agent", "ground_truth": ""},
                "extra_info": {"index": index, "split": mode},
                _TASK: text,
                _MODE: mode,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def task_of(row: Mapping[str, Any]) -> Any:
    """Returns the task of a row as verl hands it to an agent loop.

    A row that `write_rows` did not write is a task as it stands: its columns, without what verl adds.
    """
    if _TASK in row:
        return from_payload(v1.Payload(content_type="application/json", data=str(row[_TASK]).encode()), _TASK)
    return {name: _plain(value) for name, value in row.items() if name not in _OF_VERL}


def mode_of(row: Mapping[str, Any]) -> RolloutMode:
    """Returns the mode of the rollout of a row; `val` for a foreign one whose `extra_info` says so in `split`."""
    info = _plain(row.get("extra_info"))
    split = row.get(_MODE) or (info.get("split") if isinstance(info, dict) else None)
    return "val" if split in _VALIDATION_SPLITS else "train"


def metadata_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is worth noting of a row: its number in the dataset, and the training step where verl says it."""
    return {name: _plain(row[name]) for name in ("index", "global_steps") if name in row}


def _plain(value: Any) -> Any:
    """Returns a value without the types of NumPy and PyTorch."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
