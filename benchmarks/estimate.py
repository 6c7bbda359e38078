# SPDX-License-Identifier: Apache-2.0
"""What the game of ``splitguard estimate`` says of correct mechanisms and of usual mistakes, and what it costs.

Run: ``python -m benchmarks.estimate [--trials 1000] [--groups "smashed data" dp-sgd-head] [--out FILE]``; some
minutes on one idle core, most of them of dp-sgd-head, whose every step goes through Opacus.

Twelve games on smashed data (a clip of each row, a clip of the whole tensor, ten planted bugs), then those on gradient
canaries against ``dp-sgd-head``, all at epsilon 4 over T = 4 releases in batches of 32, as the command plays them.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.planted import (
    BATCH,
    BUGS,
    CLAIM,
    CORRECT,
    HEAD_BUGS,
    HEAD_CORRECT,
    RELEASES,
    SHAPE,
    planted_head,
)
from benchmarks.timing import write
from splitguard.engine.mechanism import as_mechanism
from splitguard.privacy.estimate import Estimate, estimate_epsilon, estimate_gradient_epsilon
from splitguard.seeding import generator

__all__ = ["games"]

#: The attacks and defenses whose versions a stored result is of.
USED = ("dp-sgd-head",)
GROUPS = ("smashed data", "dp-sgd-head")
Game = tuple[str, str, bool, Callable[[], Estimate]]


def games(trials: int) -> Iterator[Game]:
    """Each game: its group, the mechanism, whether the claim is false, and how it is played."""
    setting: dict[str, Any] = {"shape": SHAPE, "batch": BATCH, "trials": trials}

    def smashed(name: str) -> Estimate:
        return estimate_epsilon((CORRECT | BUGS)[name](), CLAIM, generator=generator(0, "game"), **setting)

    def head(name: str) -> Estimate:
        defense = planted_head((HEAD_CORRECT | HEAD_BUGS)[name])
        one = as_mechanism(defense, shape=SHAPE, batch=BATCH, releases=RELEASES)
        assert one.step is not None
        return estimate_gradient_epsilon(one.step, one.claim, generator=generator(0, "game"), **setting)

    for group, right, wrong, play in (
        (GROUPS[0], CORRECT, BUGS, smashed), (GROUPS[1], HEAD_CORRECT, HEAD_BUGS, head),
    ):  # fmt: skip
        for name in (*right, *wrong):
            yield group, name, name in wrong, lambda name=name, play=play: play(name)  # type: ignore[misc]


def main() -> None:
    """Plays and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for group, name, false, play in games(options.trials):
        if group not in options.groups:
            continue
        began, cpu = time.perf_counter(), time.process_time()
        told = play()
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        told_short = {key: value for key, value in dataclasses.asdict(told).items() if key not in {"tests", "trials"}}
        found.setdefault(group, []).append({"mechanism": name, "false": false, **told_short, **spent})
        print(f"{group}, {name}: {told} {spent['seconds']:.1f} s", flush=True)
    what = {
        "epsilon": CLAIM.epsilon, "delta": CLAIM.delta, "T": RELEASES, "batch": BATCH, "shape": SHAPE,
        "trials": options.trials,
    }  # fmt: skip
    seconds = {group: sum(game["seconds"] for game in each) for group, each in found.items()}
    write(options.out, {"what": what, "seconds": seconds, "games": found}, USED)


if __name__ == "__main__":
    main()
