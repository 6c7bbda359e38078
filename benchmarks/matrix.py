# SPDX-License-Identifier: Apache-2.0
"""What running cells through a matrix costs: trainings done, time beside trainings and attacks, and `--help`.

Run: ``python -m benchmarks.matrix [--out FILE]``. The targets: one training a deployment and seed, however many attacks
share it; under 3 % of the time spent on anything but trainings and attacks, in the worker; `splitguard --help` in under
half a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

import splitguard as sg
from benchmarks.timing import write

MATRIX = {
    "data": {"name": "faces", "clients": 2},
    "model": "lenet",
    "mode": ["vanilla", "u-shaped"],
    "cut": ["conv2", "fc1"],
    "defense": ["none", {"gaussian": {"epsilon": 200}}],
    "attack": ["white-box-inversion", "inverse-network", "candidate-match", "gradient-norm", "gradient-cosine"],
    "train": {"epochs": 10, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9}},
    "seeds": 0,
}


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
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "matrix.yaml"
        file.write_text(yaml.safe_dump(MATRIX))
        began = time.perf_counter()
        results = sg.Matrix.from_file(file).run(Path(folder) / "run", jobs=1, progress=False)
        total = time.perf_counter() - began
        sessions = len(list((Path(folder) / "run" / "sessions").iterdir()))
    frame = results.frame[results.frame["status"] == "ok"]
    trainings = frame.drop_duplicates(["mode", "cut", "defense", "seed"])["train_seconds"].sum()
    attacks = frame["attack_seconds"].sum()
    found: dict[str, Any] = {
        "deployments": len(results.summary),
        "trainings": sessions,
        "attacks": len(frame),
        "seconds": total,
        "seconds_training": float(trainings),
        "seconds_attacking": float(attacks),
        "share_of_the_rest": float((total - trainings - attacks) / total),
        "seconds_help": help_seconds(),
    }
    write(options.out, {"what": "a matrix on faces, one worker", **found})


if __name__ == "__main__":
    main()
