"""What a worker tells the store about its machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import threading
from typing import Any


def system_snapshot(include_gpu: bool = False) -> dict[str, Any]:
    """Returns figures of this process and its machine, as JSON values.

    Args:
        include_gpu: Also list the NVIDIA GPUs, if `nvidia-smi` is there to ask.

    Returns:
        `host` (name, platform, Python, process id, threads), `cpu` (cores, and load averages where the system has
        them), `memory` (peak resident bytes of this process where known), and `gpu` if asked for.
    """
    snapshot: dict[str, Any] = {
        "host": {
            "hostname": socket.gethostname(),
            "os": platform.system(),
            "python": platform.python_version(),
            "pid": os.getpid(),
            "threads": threading.active_count(),
        },
        "cpu": {"cores": os.cpu_count()},
        "memory": {},
    }
    if hasattr(os, "getloadavg"):
        snapshot["cpu"]["load"] = [round(value, 2) for value in os.getloadavg()]
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Bytes on macOS, KiB elsewhere.
        snapshot["memory"]["peak_resident_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    if include_gpu:
        snapshot["gpu"] = _gpus()
    return snapshot


def _gpus() -> list[dict[str, Any]]:
    fields = ("name", "memory.used", "memory.total", "utilization.gpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in answer.splitlines():
        name, used, total, utilization = (part.strip() for part in line.rsplit(",", 3))
        gpus.append(
            {
                "name": name,
                "memory_used_mib": _number(used),
                "memory_total_mib": _number(total),
                "utilization_percent": _number(utilization),
            }
        )
    return gpus


def _number(text: str) -> float | None:
    # Cards that do not report a figure print "[N/A]".
    try:
        return float(text)
    except ValueError:
        return None
