# SPDX-License-Identifier: Apache-2.0
"""Runs a matrix over the whole suite and writes its table.

Run: ``python -m benchmarks.suite NAME``, where NAME is a matrix file here: ``defenses`` takes hours on two cores, each
of the rest about one or less. ``--stored`` makes the table of the last run again. Tables are written to docs/NAME.md.
The seeds are not those on which defaults were developed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.suite.attacks import attack_rows, attack_table
from benchmarks.suite.codebook import codebook_rows, codebook_table
from benchmarks.suite.defense_page import again_table, defense_table, others_table
from benchmarks.suite.defenses import defense_rows
from benchmarks.suite.realism import realism_rows, realism_table
from splitguard.matrix import Matrix

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
#: Each table: rows from a run, and Markdown from rows.
TABLES = {
    "again": (defense_rows, again_table),
    "attacks": (attack_rows, attack_table),
    "codebook": (codebook_rows, codebook_table),
    "defenses": (defense_rows, defense_table),
    "others": (defense_rows, others_table),
    "realism": (realism_rows, realism_table),
}


def main() -> None:
    """Parses, runs, stores, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TABLES))
    parser.add_argument("--out", type=Path, default=Path("runs/suite"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--stored", action="store_true")
    settings = parser.parse_args()
    rows_of, table = TABLES[settings.name]
    stored = HERE / "results" / f"{settings.name}.json"
    if not settings.stored:
        results = Matrix.from_file(HERE / f"{settings.name}.yaml").run(settings.out / settings.name, jobs=settings.jobs)
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(json.dumps(rows_of(results), indent=1) + "\n", encoding="utf-8")
    text = table(json.loads(stored.read_text(encoding="utf-8")))
    (DOCS / f"{settings.name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
