# SPDX-License-Identifier: Apache-2.0
"""How far the length of the returned gradient tells a rare class apart, epoch by epoch, beside what was published.

Run: ``python -m benchmarks.gradient_norm [--seeds 7 8 9] [--epochs 5] [--out FILE]``; a few minutes on one idle core.

Li et al. (ICLR 2022) have a label owner with one logit and binary cross entropy, and a rare class. Here it is one class
of Fashion-MNIST against the other nine, two logits and cross entropy, which is the same loss in the difference of the
logits: the gradient is ``|p - y| ||grad_z (l_1 - l_0)||`` long (shown in tests/attacks/test_gradient_norm_exact.py).
Their number is the 95 % quantile over batches of |AUC - 1/2|, given here plus 1/2. A quantile of an unsigned deviation
flatters where batches are small, so the median and the signed AUC over all rows of an epoch stand beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import write
from splitguard.api import ATTACKS
from splitguard.data import load
from splitguard.engine.threat import Labels
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.metrics import auc
from splitguard.models import make_model

#: The attacks and defenses whose versions a stored result is of.
USED = ("gradient-norm",)
#: The rare class: shirts, the class that is told from the others worst.
RARE = 6
#: Rows a class whose labels the attacker knows: they fix the sign of its scores, and one may be an odd one.
KNOWN = (1, 5)
#: 1/2 plus the published quantile of |AUC - 1/2|, on data sets that are not at hand.
PUBLISHED = {"Criteo": 0.951, "Avazu": 0.993, "ISIC": 1.0}


def leaked(seed: int, epoch: int, rows: int, batch_size: int = 64) -> dict[str, float]:
    """What the gradients of one epoch tell: AUC over all rows, and over batches as the paper takes it."""
    coarse = [int(label == RARE) for label in range(10)]
    data = load("fashion-mnist", seed=seed, train=rows, test=1000, aux=100, coarse=coarse)
    module = make_model("lenet", input_shape=data.input_shape, classes=2, seed=seed)
    optimizer = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    training = Training(epochs=epoch + 1, batch_size=batch_size, optimizer=optimizer, context_epoch=epoch)
    session = train(module, data, cut="conv2", labels=Labels.SERVER, training=training, seed=seed)
    assert session.accuracy is not None
    out = {"accuracy": session.accuracy}
    for known in KNOWN:
        attack = ATTACKS.build("gradient-norm")
        view = session.view(attack, known=known)
        scores = attack.run(view, torch.Generator()).scores
        assert scores is not None
        truth, steps = session.truth(view.ids).labels, view.context.last(view.ids).step
        every = auc(scores[:, 1], truth)
        assert every is not None
        out[f"auc_known_{known}"] = every
        found = [auc(scores[steps == s, 1], truth[steps == s]) for s in steps.unique()]
        apart = np.array([abs(a - 0.5) + 0.5 for a in found if a is not None])
    return {**out, "batches_median": float(np.median(apart)), "batches_95": float(np.quantile(apart, 0.95))}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for epoch in range(options.epochs):
        by_seed = [leaked(seed, epoch, options.rows) for seed in options.seeds]
        means = {name: float(np.mean([found[name] for found in by_seed])) for name in by_seed[0]}
        rows.append({"epoch": epoch, **means, "by_seed": by_seed})
        print({name: round(value, 3) for name, value in {"epoch": epoch, **means}.items()}, flush=True)
    what = f"shirts against the rest of Fashion-MNIST, {options.rows} rows, LeNet, conv2, seeds {options.seeds}"
    write(options.out, {"what": what, "published_batches_95": PUBLISHED, "epochs": rows}, USED)


if __name__ == "__main__":
    main()
