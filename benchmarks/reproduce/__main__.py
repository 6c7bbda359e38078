# SPDX-License-Identifier: Apache-2.0
"""Re-runs papers and prints published, ours and fidelity.

Run: ``python -m benchmarks.reproduce [NAME ...] [--jobs 2] [--out runs/reproduce]``; all papers without a name.
``--stored`` prints the stored results and runs nothing; ``--table FILE`` writes them as Markdown. The exit status is 1
where a run contradicts its paper.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.reproduce.claims import Finding, holding, judge
from benchmarks.reproduce.followed import follow
from benchmarks.reproduce.values import Run
from benchmarks.versions import changed, versions
from splitguard.errors import DataUnavailable, near_miss
from splitguard.matrix import Matrix, MatrixError

HERE = Path(__file__).parent
PAPERS, STORED = HERE / "papers", HERE / "results"
HEAD = """# Papers re-run

Made by `python -m benchmarks.reproduce --table docs/papers.md` from the stored results of the files in
`benchmarks/reproduce/papers`. *ours* is the mean over n victims, test rows or seeds; the interval is that of a mean
over as many victims as the paper had, redrawn from ours (as many as ours where its count is not known), or Student's t
where a metric has one value a seed. *steps* are the optimizer steps that our attack took, tuning included, the most
that any of its runs did, those of several networks added up; empty where the stored result is older than the column.
*holds*, of a published number: yes where it lies in that interval, and "ours is stronger" where our attack gets further
than the paper's, which reproduces no number; of an order: yes where the mean is at least the one above it, else no. An
order is tested by the differences of each step, paired seed by seed: "n.s." where their one-sided 95 % limit does not
lie on that side of 0, "untested" where fewer than two seeds have both, or where the stored result is older than the
test.
Of a *reference-run* *published* is what the paper's own algorithm reached on the same network and images, in a
benchmark of its own (docs/evidence.md): yes where ours is no worse, by the one-sided 95 % limit of the difference,
paired image by image, or network by network where there are several.
*excess of a leak at equal utility* is by how much other points leak more than a line of settings does, interpolated at
their utility, which is an order too: above 0.

NoPeek's trade of distance correlation for accuracy, and un-accounted noise that is averaged away, are in
docs/evidence.md; FSHA met by three detectors is in docs/detection.md: each has a command of its own.

"""


def run(name: str, out: Path, jobs: int) -> dict[str, Any]:
    """Runs the matrix of one paper and judges its claims."""
    paper = yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))
    began = time.perf_counter()
    matrix = Matrix(paper["matrix"])
    results: Run = follow(matrix, **paper["follow"]) if "follow" in paper else matrix.run(out / name, jobs=jobs)
    findings = [f for claim in paper["claims"] for f in judge(claim, results, victims=paper["victims"])]
    return {
        "file": _digest(name),
        "versions": versions(r.cell for r in results.records),
        "paper": paper["paper"],
        "differs": paper["differs"],
        "victims_in_paper": paper["victims"],
        "torch": torch.__version__,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "findings": [asdict(f) for f in findings],
    }


def _digest(name: str) -> str:
    """What the paper's file held, apart from its words."""
    paper = yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))
    said = json.dumps(
        {key: paper[key] for key in ("victims", "matrix", "follow", "claims") if key in paper}, sort_keys=True
    )
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def outdated(name: str, result: Mapping[str, Any]) -> bool:
    """Whether the paper's file, or an attack or a defense in it, is another one by now."""
    return result.get("file") != _digest(name) or bool(changed(result.get("versions", {})))


def stored(name: str) -> dict[str, Any] | None:
    """The stored result of a paper; None where it was never run."""
    path = STORED / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(name: str, result: dict[str, Any] | None) -> str:
    """One paper as a Markdown section; in today's words, where the file says the same as when it was run."""
    paper = yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))
    if result is None:
        return f"## {name}\n\n{paper['paper']}. Not run."
    words = paper if result.get("file") == _digest(name) else result
    lines = [f"## {name}", "", f"{words['paper']}. {words['differs'].strip()}", ""]
    if outdated(name, result):
        lines += ["**Of an earlier version of this file or of its attacks: to be run again.**", ""]
    lines += [
        "| what | metric | published | ours | 95 % interval | n | steps | fidelity | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(Finding(**f)) for f in result["findings"]]
    return "\n".join(lines)


def _line(f: Finding) -> str:
    interval = "" if f.low is None or f.high is None else f"{f.low:.3f} to {f.high:.3f}"
    holds = {True: "yes", False: "no", None: ""}[f.holds]
    if f.published is not None and f.holds and not (f.low is not None and f.low <= f.published <= (f.high or f.low)):
        holds = "ours is stronger" if f.factor is None else f"yes, within a factor of {f.factor:g}"
    if f.fidelity == "reference-run":
        holds = "yes, paired" if f.holds else "no"
    elif f.published is None and f.holds is not None:
        holds += {True: "", False: ", n.s.", None: ", untested"}[f.clear]
    steps = "" if f.steps is None else str(f.steps)
    cells = (
        f.what,
        f.metric,
        _number(f.published),
        _number(f.ours),
        interval,
        str(f.n or ""),
        steps,
        f.fidelity,
        holds,
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main() -> int:
    """Parses, runs, prints; 1 where something that was run does not hold."""
    known = sorted(path.stem for path in PAPERS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--table", type=Path)
    settings = parser.parse_args()
    for name in settings.names:
        if name not in known:
            parser.error(near_miss(name, known, what="paper"))
    sections, contradicted = [], False
    for name in settings.names or known:
        result = stored(name)
        if not settings.stored and settings.table is None:
            try:
                result = run(name, settings.out, settings.jobs)
            except (DataUnavailable, MatrixError) as error:
                print(f"{name} was not run: {error}", file=sys.stderr)
            else:
                (STORED / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        sections.append(table(name, result))
        found = [Finding(**f) for f in result["findings"]] if result else []
        contradicted = contradicted or not holding(found)
    text = "\n\n".join(sections) + "\n"
    if settings.table is not None:
        settings.table.write_text(HEAD + text, encoding="utf-8")
    else:
        print(text)
    return 1 if contradicted else 0


if __name__ == "__main__":
    sys.exit(main())
