# SPDX-License-Identifier: Apache-2.0
"""What running cells through a matrix costs: trainings done, time beside trainings and attacks, and `--help`.

Run: ``python -m benchmarks.matrix [--matrix FILE] [--keep FOLDER] [--out FILE]``. Without a file it is
examples/fashion-mnist.yaml, which takes one worker more than half an hour; the run that is kept is the one that
`benchmarks.findings` reads. The targets: one training a deployment and seed, however many attacks
share it; under 3 % of the worker's time, from reading the file to the last record, spent on anything but trainings and
attacks; `splitguard --help` in under half a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import splitguard as sg
from benchmarks.timing import write

MATRIX = Path(__file__).parents[1] / "examples" / "fashion-mnist.yaml"


def help_seconds(times: int = 7) -> float:
    """The least of several runs of ``splitguard --help``, as a whole process."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "splitguard", "--help"], check=True, capture_output=True)
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, default=MATRIX)
    parser.add_argument("--keep", type=Path, help="a new folder for the run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} exists; what it holds would not be run, and not be timed")
    with tempfile.TemporaryDirectory() as folder:
        run = options.keep or Path(folder) / "run"
        began = time.perf_counter()
        results = sg.Matrix.from_file(options.matrix).run(run, jobs=1, progress=False)
        total = time.perf_counter() - began
        sessions = [json.loads(f.read_text()) for f in run.glob("sessions/*/session.json")]
    frame = results.frame[results.frame["status"] == "ok"]
    trainings = sum(session["costs"]["train_seconds"] for session in sessions)
    attacks = frame["attack_seconds"].sum()
    found: dict[str, Any] = {
        "deployments": len(results.summary),
        "trainings": len(sessions),
        "attacks": len(frame),
        "seconds": total,
        "seconds_training": trainings,
        "seconds_attacking": float(attacks),
        "share_of_the_rest": float((total - trainings - attacks) / total),
        "seconds_help": help_seconds(),
    }
    write(options.out, {"what": f"{options.matrix.name}, one worker", **found})


if __name__ == "__main__":
    main()
