# SPDX-License-Identifier: Apache-2.0
"""PCAT's stolen head against the clone of UnSplit's own schedule, on the same networks.

Run: ``python -m benchmarks.reference_pcat [--cut conv1] [--seeds 6 7 8 9 10 11] [--images 4] [--rounds 1000]
[--out FILE]``. Data, network and training are those of benchmarks/reproduce/papers/gao2023.yaml, at the paper's split
layer 1, conv1, or 2, conv2. The seeds are fresh: those of that file, 0, 4 and 5, were run first at split layer 1, with
+.045 and a limit of -.008, too few to say. Of each seed PCAT learns beside the session, and UnSplit's schedule
(`benchmarks.reference_unsplit`) then makes its clone from what was last sent of the first training rows, one after the
other. How either serves is the accuracy, on test rows, of the server's layers behind it. Our own
`unsplit-functionality` stands beside both: it is no part of the paper's order.

The exit status is 1 unless PCAT is at least as good, by the one-sided 95 % limit of the difference over networks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.paired import no_worse
from benchmarks.reference_unsplit import ROUNDS, reference
from benchmarks.reproduce.__main__ import PAPERS
from benchmarks.sessions import trained
from benchmarks.timing import write
from splitguard.api import ATTACKS, Attack, Guess, OnlineAttack, generator
from splitguard.engine.scoring import function_hits
from splitguard.engine.session import Session
from splitguard.metrics import paired_difference

#: The attacks and defenses whose versions a stored result is of.
USED = ("pcat-functionality", "unsplit-functionality")
#: Where the paper splits the network, its layers 1 and 2.
CUTS = ("conv1", "conv2")


def watched(matrix: Mapping[str, Any], seed: int, *, cut: str = CUTS[0]) -> tuple[Session, OnlineAttack]:
    """The session of one seed, and PCAT that has watched it."""
    pcat = ATTACKS.build("pcat-functionality")
    assert isinstance(pcat, OnlineAttack)
    return trained(matrix, cut=cut, seed=seed, beside=[pcat]), pcat


def serves(session: Session, guess: Guess) -> float:
    """The accuracy of the server's layers behind a stolen head."""
    return float(function_hits(session, guess).stolen.double().mean())


def ours_serves(session: Session, attack: Attack) -> float:
    """The same of an attack of ours."""
    return serves(session, attack.run(session.view(attack), generator(session.seed, "benchmark", attack.name)))


def main() -> int:
    """Runs the benchmark; 1 if the order is not the paper's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", choices=CUTS, default=CUTS[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 7, 8, 9, 10, 11])
    parser.add_argument("--images", type=int, default=4, help="that UnSplit's clone is made from")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of UnSplit's schedule, an image")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    matrix = yaml.safe_load((PAPERS / "gao2023.yaml").read_text(encoding="utf-8"))["matrix"]
    unsplit = ATTACKS.build("unsplit-functionality")
    runs = [watched(matrix, seed, cut=options.cut) for seed in options.seeds]
    ours = [ours_serves(session, pcat) for session, pcat in runs]
    views = [session.view(unsplit) for session, _ in runs]
    _, clones = reference(views, options.images, rounds=options.rounds)
    theirs = [
        serves(session, Guess(ids=view.ids, head=clone))
        for (session, _), view, clone in zip(runs, views, clones, strict=True)
    ]
    gain = paired_difference(ours, theirs)
    paired = {
        "ours": sum(ours) / len(ours),
        "reference": sum(theirs) / len(theirs),
        "gain": gain.mean,
        "gain_at_least": gain.at_least,
        "n": gain.n,
    }
    results = {
        "cut": options.cut,
        "seeds": options.seeds,
        "images": options.images,
        "rounds": options.rounds,
        "pcat": ours,
        "unsplit_schedule": theirs,
        "unsplit": [ours_serves(session, unsplit) for session, _ in runs],
        "network": [session.accuracy for session, _ in runs],
        "paired": {"stolen_accuracy": paired},
        "met": no_worse({"stolen_accuracy": paired}, "stolen_accuracy"),
    }
    write(options.out, results, USED)
    return 0 if results["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
