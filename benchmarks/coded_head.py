# SPDX-License-Identifier: Apache-2.0
"""Whether a head that is pre-trained to be coded serves the codebook better than one that is not.

Run: ``python -m benchmarks.coded_head [--seeds 7 8 9] [--out FILE]``. Fashion-MNIST, 20,000 private rows at five
clients, a LeNet cut at fc1, the deployment of docs/codebook.md at epsilon 4, with 2,000 and with 50 labelled auxiliary
rows.

All three heads are pre-trained for as many steps. *plain* knows nothing of the codebook. The others know it in the
second half of the steps, in which words are made anew every tenth. *words* also learns the task from each row's nearest
word, with gradients passed straight through, and stays near it, as van den Oord et al. (2017) train a vector-quantised
network. *channel* learns as *words* does, and its upper layers also from what would be sent, the answer drawn anew each
time; no gradient of an answer reaches the head, since the answer is mostly another row's word. Such gradients, or
leaving out the task on the rows themselves, made heads collapse.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import write
from splitguard.api import DEFENSES, Defense, Deployment, Labels, Mode, Phase, generator
from splitguard.data import Data, load
from splitguard.engine.cut import SplitModel, cut_shapes, split
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.metrics import paired_difference
from splitguard.models import make_model

#: The attacks and defenses whose versions a stored result is of.
USED = ("codebook",)
EPSILON, CUT, BATCH = 4.0, "fc1", 64
#: At this epsilon the answer is the word; the weight of the distance to it (van den Oord et al. take .25 to 2).
SURE, NEAR = 30.0, 0.25
#: With so many auxiliary rows, so many epochs.
AUXILIARY = {2000: 40, 50: 400}
Head = Literal["plain", "words", "channel"]
HEADS: tuple[Head, ...] = get_args(Head)


def coded(parts: SplitModel, data: Data, *, epsilon: float) -> Defense:
    """A codebook for this head as it is now."""
    shape = cut_shapes(parts, data.input_shape)[0]
    defense = DEFENSES.build({"codebook": {"epsilon": epsilon, "words": data.classes}})
    defense.bind(
        Deployment(
            mode=Mode.VANILLA,
            labels=Labels.SENT,
            cuts=(CUT,),
            input_shape=data.input_shape,
            cut_shapes=(shape,),
            classes=data.classes,
            batch_size=BATCH,
            epochs=1,
            clients=len(data.clients),
            releases={Phase.TRAINING: 1, Phase.EVALUATION: 1, Phase.QUERY: 1},
            aux=data.aux,
            head=copy.deepcopy(parts.head).eval(),
            head_frozen=True,
        )
    )
    return defense


def pretrained(data: Data, head: Head, epochs: int, seed: int) -> nn.Module:
    """A network whose stages were trained together on auxiliary rows."""
    network = make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=seed)
    parts = split(network, CUT)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    draws, late = generator(seed, "coded head"), max(epochs // 20, 1)
    books: list[Defense] = []
    for epoch in range(epochs):
        if head != "plain" and epoch >= epochs // 2 and (epoch - epochs // 2) % late == 0:
            books = [coded(parts, data, epsilon=epsilon) for epsilon in (SURE, EPSILON)]
        for positions in torch.randperm(len(data.aux), generator=draws).split(BATCH):
            rows = data.aux[positions]
            smashed: Tensor = parts.head(rows.inputs)
            sent = [smashed]
            if books:
                sent += [books[0].released_like(smashed, draws)]
                sent += [books[1].released_like(smashed, draws).detach()] if head == "channel" else []
            loss = torch.stack([nn.functional.cross_entropy(parts.body(z), rows.labels) for z in sent]).sum()
            if books:
                apart = (smashed - sent[1].detach()).square().mean()
                loss = loss + NEAR * apart / smashed.detach().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def accuracy(data: Data, head: Head, epochs: int, seed: int) -> float:
    """Of the deployment behind this head, on test rows that go through the codebook too."""
    session = train(
        pretrained(data, head, epochs, seed),
        data,
        cut=CUT,
        defense=DEFENSES.build({"codebook": {"epsilon": EPSILON}}),
        training=Training(
            epochs=5, head="frozen", release="once", pretrain_epochs=0, optimizer={"name": "adam", "lr": 0.001}
        ),
        seed=seed,
    )
    assert session.accuracy is not None
    return session.accuracy


def main() -> None:
    """Measures and prints: means over seeds, and the gain of each head over the plain one, paired."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[int, Head], list[float]] = {}
    for (aux, epochs), seed in itertools.product(AUXILIARY.items(), options.seeds):
        rows = {"train": 20_000, "test": 5_000, "aux": aux, "clients": 5, "victims": {"member": 32, "query": 0}}
        data = load({"fashion-mnist": rows}, seed=seed)
        for head in HEADS:
            found.setdefault((aux, head), []).append(accuracy(data, head, epochs, seed))
    results = []
    for (aux, head), values in found.items():
        row: dict[str, Any] = {"aux": aux, "head": head, "accuracy": float(np.mean(values)), "each": values}
        if head != "plain":
            gain = paired_difference(values, found[aux, "plain"])
            row |= {"gain": gain.mean, "gain_at_least": gain.at_least, "gain_at_most": gain.at_most}
        results.append(row)
    write(options.out, {"epsilon": EPSILON, "seeds": options.seeds, "rows": results}, USED)


if __name__ == "__main__":
    main()
