"""An agent whose reward says what it was given, and which notes each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentlightning import AttemptedRollout, LitAgent


class NotingAgent(LitAgent[Any]):
    """Answers with the number in its prompt times that in its task.

    Args:
        notes: File that gets a line for each run.
    """

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self.notes = notes

    def rollout(self, task: Any, resources: Any, rollout: AttemptedRollout) -> float:
        with self.notes.open("a") as notes:
            notes.write(f"{rollout.rollout_id} {rollout.attempt.attempt_id}\n")
        return float(resources["prompt"].template) * task
