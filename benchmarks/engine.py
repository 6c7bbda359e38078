# SPDX-License-Identifier: Apache-2.0
"""What splitting costs: a split training step over the same step on the network in one piece.

Run: ``python -m benchmarks.engine [--out FILE]``. The target is at most 1.02 for resnet18, and at most 1.10 or half a
millisecond a step for lenet, whichever is larger.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.timing import paired, write
from splitguard.data.rows import Rows
from splitguard.engine.cut import split
from splitguard.engine.defense import Batch, Context, Defense
from splitguard.engine.links import Link
from splitguard.engine.modes import Parcel, SplitRound
from splitguard.engine.parties import Client, Server, Stage, Surroundings
from splitguard.engine.threat import Labels
from splitguard.engine.training import Training
from splitguard.engine.wire import Phase
from splitguard.models import make_model

#: Network, cut, input shape, batch size, steps a timing, rounds.
CASES = [("lenet", "conv2", (1, 28, 28), 64, 8, 80), ("resnet18", "layer2", (3, 32, 32), 16, 1, 30)]


def steps(name: str, cut: str, shape: tuple[int, ...], size: int, count: int) -> tuple[Any, Any]:
    """Two functions that make ``count`` training steps: over the wire, and on the network in one piece."""
    gen = torch.Generator().manual_seed(0)
    rows = Rows(torch.rand(size, *shape, generator=gen), torch.randint(10, (size,), generator=gen), torch.arange(size))
    whole = make_model(name, input_shape=shape, classes=10, seed=0)
    network = split(copy.deepcopy(whole), cut)
    training = Training(batch_size=size)
    around = Surroundings(torch.device("cpu"), "float32")
    client = Client(0, rows, Stage(network.head, "head", training), None, around)
    server = Server(Stage(network.body, "body", training), around)
    play = SplitRound(server, Link(), Labels.SENT, defense=Defense(), generator=gen)
    optimizer = training.make_optimizer("body", list(whole.parameters()))

    def over_the_wire() -> None:
        for step in range(count):
            ctx = Context(rows.ids, 0, 0, step, Phase.TRAINING)
            play.run([Parcel(client, Batch(rows.inputs, rows.ids, rows.labels), rows.labels, ctx)], [step])

    def in_one_piece() -> None:
        for _ in range(count):
            optimizer.zero_grad()
            nn.functional.cross_entropy(whole(rows.inputs), rows.labels).backward()
            optimizer.step()

    return over_the_wire, in_one_piece


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, cut, shape, size, count, times in CASES:
        found = paired(*steps(name, cut, shape, size, count), times=times)
        found["milliseconds_a_step"] = 1000 * found["difference"] / count
        results[f"{name} at {cut}, batch {size}"] = found
    write(options.out, {"what": "split step / unsplit step", "cases": results})


if __name__ == "__main__":
    main()
