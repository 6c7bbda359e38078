# SPDX-License-Identifier: Apache-2.0
"""Noise without an account of its releases, averaged away: with a frozen head, and with one that goes on training.

Run: ``python -m benchmarks.averaging [--seeds 7 8 9] [--out FILE]``. Fashion-MNIST, 2,000 rows, a LeNet cut at conv1.

Frozen head: a row is sent T times with noise of standard deviation sigma, or once with sigma / sqrt(T). Who sees all T
releases should find as much as who sees the single better one: the difference in SSIM is reported with its interval
over victims, and so is the error of the mean release in units of sigma / sqrt(T), which should be 1.

Trained head: the joint attack on all T releases, each through the head that made it, beside the best single release
(chosen by the truth, so that the comparison favours it) and the mean of all releases through the last head. The exit
status is 1 if the one-sided 95 % limit of (joint - other), over the victims of all seeds, is below -0.02 for either.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.timing import write
from splitguard.api import ATTACKS, DEFENSES, Releases, View, generator
from splitguard.data import load
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.metrics import ssim
from splitguard.models import make_model

SIGMA, TIMES, EPOCHS, MARGIN = 1.0, (1, 4, 16), 6, -0.02
#: The attacks and defenses whose versions a stored result is of.
USED = ("white-box-inversion", "noise")
ROWS = {"train": 2000, "test": 500, "aux": 500, "victims": {"member": 32, "query": 2}}


def session(seed: int, *, sigma: float, epochs: int, head: str) -> Session:
    """One training with noise that nobody accounts for."""
    data = load({"fashion-mnist": ROWS}, seed=seed)
    network = make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=seed)
    settings: dict[str, Any] = {"head": head, "pretrain_epochs": 3} if head == "frozen" else {}
    training = Training(epochs=epochs, optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.9}, **settings)
    return train(
        network, data, cut="conv1", defense=DEFENSES.build({"noise": {"sigma": sigma}}), training=training, seed=seed
    )


def found(held: Session, view: View) -> Tensor:
    """(N,) SSIM of white-box inversion on this view."""
    guess = ATTACKS.build("white-box-inversion").run(view, generator(0, "averaging"))
    assert guess.images is not None
    return ssim(guess.images, held.truth(view.ids).inputs).double()


def frozen(seed: int, times: int) -> dict[str, Tensor]:
    """T releases at sigma beside one at sigma / sqrt(T)."""
    many = session(seed, sigma=SIGMA, epochs=times, head="frozen")
    one = session(seed, sigma=SIGMA / math.sqrt(times), epochs=1, head="frozen")
    attack = ATTACKS.build("white-box-inversion")
    view = many.view(attack)
    rows, count = view.releases.all_of(view.ids)
    clean = view.head()(many.truth(view.ids).inputs)
    error = rows.smashed.view(len(view.ids), count, *rows.smashed.shape[1:]).mean(1) - clean
    relative = error.square().flatten(1).mean(1).sqrt() * math.sqrt(times) / SIGMA
    return {"many": found(many, view), "one": found(one, one.view(attack)), "error": relative.double()}


def trained(seed: int) -> dict[str, Tensor]:
    """The joint attack, the best of the single releases, and the mean release through the last head."""
    held = session(seed, sigma=SIGMA, epochs=EPOCHS, head="trained")
    view = held.view(ATTACKS.build("white-box-inversion"))
    rows, count = view.releases.all_of(view.ids)
    each = [torch.arange(len(view.ids)) * count + number for number in range(count)]
    single = torch.stack([found(held, _seeing(view, rows.where(own))) for own in each])
    last = rows.where(each[-1])
    mean = replace(last, smashed=torch.stack([rows.smashed[own] for own in each]).mean(0))
    # An attacker who averages by hand has noise of sigma / sqrt(T) before it.
    quieter = DEFENSES.build({"noise": {"sigma": SIGMA / math.sqrt(count)}})
    latent = found(held, replace(_seeing(view, mean), defense=quieter))
    return {"joint": found(held, view), "best_single": single.max(0).values, "latent_mean": latent}


def _seeing(view: View, rows: Releases) -> View:
    return replace(view, _releases=rows)


def difference(one: Tensor, other: Tensor) -> dict[str, float]:
    """The mean of ``one - other`` over victims, its 95 % interval, and the one-sided 95 % lower limit (Student's t)."""
    apart = (one - other).numpy()
    mean, error, free = float(apart.mean()), float(stats.sem(apart)), len(apart) - 1
    half, side = (float(stats.t.ppf(q, free)) * error for q in (0.975, 0.95))
    return {"mean": mean, "low": mean - half, "high": mean + half, "one_sided": mean - side}


def main() -> int:
    """Runs both parts; 1 where the joint attack falls behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_times = []
    for times in TIMES:
        parts = [frozen(seed, times) for seed in options.seeds]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        by_times.append(
            {
                "T": times,
                "ssim_T_releases": float(joined["many"].mean()),
                "ssim_one_release": float(joined["one"].mean()),
                "difference": difference(joined["many"], joined["one"]),
                "error_of_the_mean": float(np.sqrt(joined["error"].square().mean())),
            }
        )
    parts = [trained(seed) for seed in options.seeds]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    others = {name: difference(joined["joint"], joined[name]) for name in ("best_single", "latent_mean")}
    met = all(other["one_sided"] >= MARGIN for other in others.values())
    results = {
        "sigma": SIGMA,
        "frozen": by_times,
        "trained": {"T": EPOCHS, **{name: float(v.mean()) for name, v in joined.items()}, "joint_less": others},
        "margin": MARGIN,
        "met": met,
    }
    write(options.out, {"seeds": options.seeds, **results}, USED)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
