# SPDX-License-Identifier: Apache-2.0
"""What examples/fashion-mnist.yaml finds, as the table of the README.

Run: ``python -m benchmarks.findings [RUN]``. Without a run folder it reads the stored results of the last run; with one
it stores that run's results.csv and summary.csv first. A test holds the README against what this prints.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

__all__ = ["STORED", "table"]

STORED = Path(__file__).parent / "results" / "fashion-mnist"
FILES = ("results.csv", "summary.csv")
VICTIMS = {"training": "members", "query": "queries"}
#: The rows of the table: vanilla, labels sent, by cut and defense.
ROWS = (
    ("conv1", "none"),
    ("conv2", "none"),
    ("fc1", "none"),
    ("conv2", "nopeek"),
    ("fc1", "gaussian(epsilon=200)"),
    ("fc1", "gaussian(epsilon=8)"),
    ("fc1", "gaussian(epsilon=200), head frozen"),
    ("fc1", "gaussian(epsilon=8), head frozen"),
)


def table(folder: Path = STORED) -> str:
    """The Markdown table of a run's summary.csv and results.csv."""
    return "\n".join(_lines(pd.read_csv(folder / "summary.csv"), pd.read_csv(folder / "results.csv")))


def _lines(summary: pd.DataFrame, results: pd.DataFrame) -> Iterator[str]:
    headings = ("cut", "defense", "test accuracy", "aux alone", "white-box SSIM, members", "worst input leakage [95 %]")
    yield f"| {' | '.join(headings)} | by, on |"
    yield "|---|---|---|---|---|---|---|"
    vanilla = summary[(summary["mode"] == "vanilla") & (summary["labels"] == "sent")]
    for cut, defense in ROWS:
        found = vanilla[(vanilla["cut"] == cut) & (vanilla["defense"] == defense)]
        if len(found) != 1:
            raise SystemExit(f"wanted one deployment {cut} {defense} in summary.csv; got {len(found)}")
        row = found.iloc[0]
        accuracy = _short(row["accuracy"]) + ("" if row["usable"] else ", unusable")
        interval = f"[{_short(row['worst_input_low'])}, {_short(row['worst_input_high'])}]"
        leakage = f"{_short(row['worst_input'])} {interval}"
        ssim = _short(_white_box(results, cut, defense))
        by = f"{row['worst_input_attack']}, {VICTIMS[row['worst_input_phase']]}"
        alone = "" if math.isnan(row["aux_accuracy"]) else _short(row["aux_accuracy"])
        yield f"| {cut} | {defense} | {accuracy} | {alone} | {ssim} | {leakage} | {by} |"


def _white_box(results: pd.DataFrame, cut: str, defense: str) -> float:
    """SSIM of white-box inversion on member victims."""
    wanted = {
        "mode": "vanilla",
        "labels": "sent",
        "cut": cut,
        "defense": defense,
        "attack": "white-box-inversion",
        "phase": "training",
    }
    chosen = results
    for name, value in wanted.items():
        chosen = chosen[chosen[name] == value]
    return float(chosen["ssim"].iloc[0]) if len(chosen) else math.nan


def _short(value: float) -> str:
    """Three digits after the point, and no zero before it."""
    return f"{value:.3f}".replace("0.", ".", 1)


def main() -> None:
    """Stores a run if one is given, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    for name in FILES if run is not None else ():
        shutil.copyfile(run / name, STORED / name)
    print(table())


if __name__ == "__main__":
    main()
