"""Figures, what they are held against, and how they are shown."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Figure:
    """The median of a measurement's runs."""

    value: float
    runs: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def median(cls, runs: Sequence[float], **details: Any) -> Figure:
        return cls(statistics.median(runs), list(runs), details)


@dataclass
class Goal:
    """Held against the ratio ("2.5x") or, where a limit is given, against our own figure in the line's unit."""

    ratio: float | None = None
    limit: float | None = None

    def text(self, unit: str) -> str:
        return f"{self.ratio:g}x" if self.ratio is not None else f"{self.limit:g} {unit}"


@dataclass
class Line:
    """One line of the table: `peer` is what our figure is divided by, usually the reference release."""

    what: str
    unit: str
    peer: Figure | None
    ours: Figure | None
    at_least: Goal | None = None
    towards: Goal | None = None
    less_is_better: bool = False
    peer_name: str = "0.3.0"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; below 1 it is worse."""
        if self.peer is None or self.ours is None:
            return None
        above, below = (self.peer, self.ours) if self.less_is_better else (self.ours, self.peer)
        return above.value / below.value if below.value else None

    def reaches(self, goal: Goal | None) -> bool | None:
        if goal is None or self.ours is None:
            return None
        if goal.limit is not None:
            return self.ours.value <= goal.limit if self.less_is_better else self.ours.value >= goal.limit
        return None if self.ratio is None or goal.ratio is None else self.ratio >= goal.ratio

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["ratio"] = self.ratio
        plain["reaches_at_least"] = self.reaches(self.at_least)
        plain["reaches_towards"] = self.reaches(self.towards)
        return plain


HEADINGS = ("what", "0.3.0", "ours", "ratio", "at least", "towards", "reached")


def table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table that also reads well in a terminal."""
    rows = [HEADINGS, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"- {line.what}: {line.note}" for line in lines if line.note]
    return "\n".join([*shown, "", *notes]).rstrip()


def _cells(line: Line) -> tuple[str, ...]:
    peer = _value(line.peer, line.unit)
    ratio = "-" if line.ratio is None else f"{_number(line.ratio)}x"
    if line.peer_name != "0.3.0":
        peer, ratio = "-", ratio if line.ratio is None else f"{ratio} {line.peer_name}"
    if line.reaches(line.towards):
        reached = "towards"
    elif line.reaches(line.at_least):
        reached = "at least"
    else:
        reached = "-" if line.reaches(line.at_least) is None else "NO"
    goals = (goal.text(line.unit) if goal else "-" for goal in (line.at_least, line.towards))
    return (line.what, peer, _value(line.ours, line.unit), ratio, *goals, reached)


def _value(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return "-"
    return f"{_number(figure.value)} {unit}".replace(" /s", "/s").rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the figures were taken on, and how busy it was when they began."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
    }
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        facts["cpu"] = models[0] if models else "unknown"
    if meminfo.exists():
        facts["memory_gb"] = round(int(meminfo.read_text().split()[1]) / 1e6, 1)
    return facts


class ForeignLoad:
    """What other processes of the machine computed while a run went on, which is the noise in its figures."""

    def __init__(self) -> None:
        self._busy, self._all = _cpu_seconds()

    def share(self) -> float | None:
        """Their part of the machine's processor time since the start; call it when every child has ended.

        `None` where there is no /proc.
        """
        busy, total = _cpu_seconds()
        elapsed = total - self._all
        own = sum(os.times()[:4])  # this process and its ended children
        return max(busy - self._busy - own, 0.0) / elapsed if elapsed > 0 else None


def _cpu_seconds() -> tuple[float, float]:
    """Busy and total processor seconds of the machine since it started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, 0.0
    ticks = [int(number) for number in stat.read_text().split("\n", 1)[0].split()[1:9]]
    total, idle = sum(ticks), ticks[3] + ticks[4]
    rate = os.sysconf("SC_CLK_TCK")
    return (total - idle) / rate, total / rate


def revision(repository: Path) -> str | None:
    """The commit that was measured, marked where the tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
