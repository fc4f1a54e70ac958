"""Measures this project beside the release that it takes up, in one run on one machine, and prints their ratios.

The reference release lives in a virtual environment of its own, which is made at first use. README.md beside this
file says what each row measures.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from environments import REPOSITORY, BenchmarkError, Side, reference_python, working_folder
from report import ForeignLoad, Line, machine, revision, table
from rows import FULL, QUICK, ROWS, Bench

RESULTS = REPOSITORY / "bench-results"
QUIET = 0.05
"""Share of the machine that other processes may take before the table says so."""


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that children end
    started = time.monotonic()
    effort = QUICK if options.quick else FULL
    wanted = options.only or [row for row in ROWS if row != "install" or not (options.quick or options.no_install)]
    facts = machine()
    foreign = ForeignLoad()
    lines: list[Line] = []
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder(options.results))
        reference = ours = None
        try:
            if options.side != "ours":
                python = reference_python(options.reference_venv.absolute())
                reference = Side("reference", python, folder)
                stack.callback(reference.stop)
            if options.side != "reference":
                ours = Side("ours", options.python.absolute(), folder)
                stack.callback(ours.stop)
            bench = Bench(reference, ours, effort, folder)
            stack.callback(bench.close)
            for row in wanted:
                _say(f"[{time.monotonic() - started:5.0f} s] {row}")
                try:
                    lines += ROWS[row](bench)
                except BenchmarkError as error:
                    failures[row] = str(error)
                    _say(f"{row} failed: {error}")
        except BenchmarkError as error:
            failures["run"] = str(error)
            _say(f"cannot begin: {error}")
        except KeyboardInterrupt:
            _say("interrupted: the rows so far")
            failures["run"] = "interrupted"
        versions = {side.name: side.versions for side in (reference, ours) if side is not None}
    print(table(lines))
    share = foreign.share()
    facts["cpu_share_of_other_processes"] = None if share is None else round(share, 3)
    if share is not None and share > QUIET:
        print(f"\nThe machine was not quiet: other processes took {share:.0%} of its processors during this run.")
    document = {
        "machine": facts,
        "versions": versions,
        "revision": revision(REPOSITORY),
        "quick": options.quick,
        "seconds": round(time.monotonic() - started, 1),
        "lines": [line.to_json() for line in lines],
        "failures": failures,
    }
    _write(options.results / "benchmark.json", document)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short run of each row but install: does it work?")
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--no-install", action="store_true", help="leave out the row that makes new environments")
    parser.add_argument("--side", choices=["both", "reference", "ours"], default="both", help="measure one side alone")
    parser.add_argument(
        "--reference-venv", type=Path, default=REPOSITORY / ".bench-venv", help="reused when its pins are the same"
    )
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="interpreter that has this project installed"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for benchmark.json and the databases")
    options = parser.parse_args()
    options.results = options.results.absolute()  # children run in a folder below it
    return options


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
    _say(f"written: {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
