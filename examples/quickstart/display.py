"""What one sees of a training: a line while rollouts run, a row for each step, the curve as text and as a picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agentlightning.algorithm.grpo import BatchProgress, Step

BAR = 30
HEIGHT = 12


class Display:
    """Shows how a training goes.

    Args:
        steps: How many steps there will be.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._on_terminal = sys.stdout.isatty()

    def show_rollout(self, progress: BatchProgress) -> None:
        """On a terminal, shows how far the rollouts of a step are, in one line that is rewritten."""
        if self._on_terminal:
            mean = "-" if progress.mean_reward is None else f"{progress.mean_reward:.2f}"
            what = "held-out tasks" if progress.label.startswith("val") else "rollouts"
            print(f"\r  {progress.done:>2} of {progress.total} {what}, reward {mean} \x1b[K", end="\r", flush=True)

    def show_step(self, step: Step) -> None:
        """Shows what a step brought, or the score of the policy on the held-out tasks."""
        clear = "\r\x1b[K" if self._on_terminal else ""
        if step.validation is not None:
            print(f"{clear}Held-out score after {step.version} steps: {step.validation:.2f}", flush=True)
        elif step.reward is not None:
            bar = "#" * round(step.reward * BAR)
            print(
                f"{clear}step {step.version:>2}/{self._steps}  reward {step.reward:.2f} |{bar:<{BAR}}|  "
                f"{step.response_tokens:.0f} tokens each, {step.rollout_seconds:.0f} s + {step.update_seconds:.0f} s",
                flush=True,
            )


def curve_as_text(history: Sequence[Step]) -> str:
    """Returns the mean reward of each step as a chart of columns, with the score on the held-out tasks beside it."""
    rewards = [step.reward for step in history if step.reward is not None]
    rows = []
    for level in range(HEIGHT, 0, -1):
        columns = "".join("  █" if reward * HEIGHT >= level - 0.5 else "   " for reward in rewards)
        label = f"{level / HEIGHT:.2f}" if level % 3 == 0 else ""
        rows.append(f"{label:>5} |{columns}")
    rows.append("      +" + "---" * len(rewards))
    rows.append("       " + "".join(f"{number:>3}" for number in range(1, len(rewards) + 1)) + "  step")
    return "\n".join(rows)


def draw_curve(history: Sequence[Step], path: Path) -> None:
    """Draws the rewards and the scores on held-out tasks as a PNG picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    trained = [step for step in history if step.reward is not None]
    judged = [step for step in history if step.validation is not None]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(
        [step.version for step in trained], [step.reward for step in trained], marker="o", label="training reward"
    )
    axes.plot(
        [step.version for step in judged],
        [step.validation for step in judged],
        "D--",
        label="held-out score",
    )
    axes.set(xlabel="step", ylabel="mean reward", ylim=(0, 1.02), title="SmolLM2-135M-Instruct, GRPO")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
