# SPDX-License-Identifier: Apache-2.0
"""UnSplit against the schedule it comes from: same head, same images, same process.

Run: ``python -m benchmarks.reference_unsplit [--rounds 1000] [--images 4] [--out FILE]``. A LeNet is trained on
Fashion-MNIST and cut; test images are attacked by splitguard's attack with its defaults, all at once, and by the
reference: one image at a time from mid-grey, rounds of 100 steps of Adam(1e-3, amsgrad) on the image, with 0.1 squared
total variation and 1 mean square, then 100 on a clone that goes on from the image before. Beside both stands the mean
auxiliary image. The reference's 1000 rounds take minutes an image; with fewer its time is scaled up, and said to be.
The exit status is 1 unless ours takes at most a tenth of the reference's time an image at a better SSIM.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.paired import compared, no_worse
from benchmarks.timing import write
from splitguard.api import ATTACKS, View, generator
from splitguard.building.priors import total_variation
from splitguard.data import load
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.metrics import mse, ssim
from splitguard.models import make_model

#: The attacks and defenses whose versions a stored result is of.
USED = ("unsplit",)
ROUNDS, STEPS, LIMIT = 1000, 100, 1 / 10


def reference(view: View, images: int, *, rounds: int) -> tuple[Tensor, float]:
    """The reference's guesses at the first victims, and its seconds an image."""
    clone = view.blank_head(generator(0, "clone"))
    weights = torch.optim.Adam(clone.parameters(), lr=1e-3, amsgrad=True)
    guesses, began = [], time.perf_counter()
    for target in view.releases.last(view.ids[:images]).smashed[:, None]:
        x = torch.full((1, *view.input_shape), 0.5, requires_grad=True)
        pixels = torch.optim.Adam([x], lr=1e-3, amsgrad=True)
        for _ in range(rounds):
            for moved, prior in ((pixels, 1.0), (weights, 0.0)):
                for _ in range(STEPS):
                    moved.zero_grad()
                    loss = (clone(x) - target).square().mean()
                    if prior:
                        loss = loss + 0.1 * total_variation(x).sum() + x.square().mean()
                    torch.autograd.backward(loss)
                    moved.step()
        guesses.append(x.detach().clamp(0, 1))
    return torch.cat(guesses), (time.perf_counter() - began) / images


def quality(guess: Tensor, truth: Tensor) -> dict[str, float]:
    """Means over images."""
    return {"ssim": float(ssim(guess, truth).mean()), "mse": float(mse(guess, truth).mean())}


def main() -> int:
    """Runs the benchmark; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the reference")
    parser.add_argument("--images", type=int, default=4, help="given to the reference")
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--cut", default="conv1")
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    torch.set_num_threads(1)

    rows = {"train": 3000, "test": 300, "aux": 300, "victims": {"member": 1, "query": settings.victims}}
    data = load({"fashion-mnist": rows}, seed=0)
    network = make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=0)
    session = train(network, data, cut=settings.cut, training=Training(epochs=2, batch_size=32))
    attack = ATTACKS.build("unsplit")
    view = session.view(attack, phase="query")
    truth = session.truth(view.ids).inputs

    began = time.perf_counter()
    guess = attack.run(view, generator(0, "benchmark")).images
    seconds = (time.perf_counter() - began) / len(view.ids)
    assert guess is not None
    theirs, taken = reference(view, settings.images, rounds=settings.rounds)
    whole = taken * ROUNDS / settings.rounds
    few = truth[: settings.images]
    results: dict[str, Any] = {
        "cut": settings.cut,
        "ours": {"seconds_an_image": seconds, **quality(guess, truth), "same_images": quality(guess[: len(few)], few)},
        "reference": {
            "rounds": settings.rounds,
            "seconds_an_image": taken,
            "seconds_an_image_for_1000_rounds": whole,
            **quality(theirs, few),
        },
        "paired": compared(guess[: len(few)], theirs, few),
        "mean_image": quality(data.aux.inputs.mean(0).expand_as(few), few),
        "time_ratio": seconds / whole,
        "limit": LIMIT,
    }
    results["met"] = seconds / whole <= LIMIT and no_worse(results["paired"], "ssim")
    write(settings.out, results, USED)
    return 0 if results["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
