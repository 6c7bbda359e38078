# SPDX-License-Identifier: Apache-2.0
"""UnSplit against the schedule it comes from: same heads, same images.

Run: ``python -m benchmarks.reference_unsplit [--cut conv1] [--seeds 0] [--images 4] [--rounds 1000] [--out FILE]``. Of
each seed a LeNet is trained on Fashion-MNIST and cut; test images are attacked by splitguard's attack, all at once,
and by the reference: one image at a time from mid-grey, rounds of 100 steps of Adam(1e-3, amsgrad) on the image, with
0.1 squared total variation and 1 mean square, then 100 on a clone that goes on from the image before. Beside both
stands the mean auxiliary image. Behind conv1 ours has its defaults, behind conv2 more steps and a slower clone, chosen
on seeds 1 to 3.

The reference's 1000 rounds take minutes an image, so that the seeds go side by side through one batched network, which
changes nothing but rounding. Its time is that of one seed by itself, over a few rounds and scaled up. The limit of the
difference is over seeds where there are several, each with the mean of its images, and over images where there is one.

The exit status is 1 unless ours takes at most a tenth of the reference's time an image at a better SSIM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmarks.paired import compared, no_worse
from benchmarks.sessions import trained
from benchmarks.timing import seconds, write
from splitguard.api import ATTACKS, View, generator
from splitguard.building.priors import total_variation
from splitguard.metrics import mse, ssim

#: The attacks and defenses whose versions a stored result is of.
USED = ("unsplit",)
#: Of the reference; how many of its rounds are timed; and the share of its time that ours may take.
ROUNDS, STEPS, TIMED, LIMIT = 1000, 100, 5, 1 / 10
#: What is trained and attacked.
MATRIX: dict[str, Any] = {
    "data": {"name": "fashion-mnist", "train": 3000, "test": 300, "aux": 300, "victims": {"member": 1, "query": 16}},
    "model": "lenet",
    "train": {"epochs": 2, "batch_size": 32},
}
#: Ours, by cut.
SETTINGS: dict[str, dict[str, Any]] = {"conv1": {}, "conv2": {"steps": 5000, "clone_lr": 1e-3}}


def reference(views: Sequence[View], images: int, *, rounds: int) -> tuple[Tensor, list[nn.Module]]:
    """(S, images, C, H, W): its guesses at the first victims of each of S views, side by side; and the S clones."""
    clones = [view.blank_head(generator(0, "clone")) for view in views]
    weights, fixed = stack_module_state(clones)

    def one(weight: dict[str, Tensor], constant: dict[str, Tensor], image: Tensor) -> Tensor:
        out: Tensor = functional_call(clones[0], (weight, constant), (image[None],))
        return out[0]

    def made(images: Tensor) -> Tensor:
        out: Tensor = torch.vmap(one)(weights, fixed, images)
        return out

    sent = torch.stack([view.releases.last(view.ids[:images]).smashed for view in views], 1)
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3, amsgrad=True)
    found = torch.stack([descent(made, optimizer, target, views[0].input_shape, rounds) for target in sent], 1)
    for number, clone in enumerate(clones):
        clone.load_state_dict({name: (weights | fixed)[name][number] for name in clone.state_dict()})
    return found, clones


def descent(
    made: Callable[[Tensor], Tensor],
    weights: torch.optim.Optimizer,
    target: Tensor,
    shape: Sequence[int],
    rounds: int,
) -> Tensor:
    """(S, *shape) behind ``target`` (S, ...), each by a clone of its own; ``weights`` moves the clones in ``made``."""
    x = torch.full((len(target), *shape), 0.5, requires_grad=True)
    pixels = torch.optim.Adam([x], lr=1e-3, amsgrad=True)
    for _ in range(rounds):
        for moved, prior in ((pixels, 1.0), (weights, 0.0)):
            for _ in range(STEPS):
                moved.zero_grad()
                loss = (made(x) - target).square().flatten(1).mean(1).sum()
                if prior:
                    loss = loss + 0.1 * total_variation(x).sum() + x.square().flatten(1).mean(1).sum()
                torch.autograd.backward(loss)
                moved.step()
    return x.detach().clamp(0, 1)


def alone(view: View) -> float:
    """Seconds an image of the reference, by itself."""
    clone, target = view.blank_head(generator(0, "clone")), view.releases.last(view.ids[:1]).smashed
    weights = torch.optim.Adam(clone.parameters(), lr=1e-3, amsgrad=True)
    took = seconds(lambda: descent(clone, weights, target, view.input_shape, TIMED))
    return took * ROUNDS / TIMED


def quality(guess: Tensor, truth: Tensor) -> dict[str, float]:
    """Means over images."""
    return {"ssim": float(ssim(guess, truth).mean()), "mse": float(mse(guess, truth).mean())}


def main() -> int:
    """Runs the benchmark; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the reference")
    parser.add_argument("--images", type=int, default=4, help="of each seed that are given to the reference")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cut", choices=list(SETTINGS), default="conv1")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    attack, few = ATTACKS.build({"unsplit": SETTINGS[options.cut]}), options.images
    sessions = [trained(MATRIX, cut=options.cut, seed=seed) for seed in options.seeds]
    views = [session.view(attack, phase="query") for session in sessions]
    truths = [session.truth(view.ids).inputs for session, view in zip(sessions, views, strict=True)]
    guesses: list[Tensor] = []

    def ours() -> None:
        for seed, view in zip(options.seeds, views, strict=True):
            images = attack.run(view, generator(seed, "benchmark")).images
            assert images is not None
            guesses.append(images)

    taken, whole = seconds(ours) / sum(map(len, truths)), alone(views[0])
    theirs = reference(views, few, rounds=options.rounds)[0].flatten(0, 1)
    same, truth = torch.cat([guess[:few] for guess in guesses]), torch.cat([truth[:few] for truth in truths])
    means = [session.data.aux.inputs.mean(0).expand(few, *session.data.input_shape) for session in sessions]
    several = len(sessions) > 1
    results: dict[str, Any] = {
        "cut": options.cut,
        "seeds": options.seeds,
        "settings": SETTINGS[options.cut],
        "ours": {
            "seconds_an_image": taken,
            **quality(torch.cat(guesses), torch.cat(truths)),
            "same_images": quality(same, truth),
        },
        "reference": {
            "rounds": options.rounds,
            "seconds_an_image_for_1000_rounds": whole,
            **quality(theirs, truth),
        },
        "paired": compared(same, theirs, truth, together=few if several else 1),
        "mean_image": quality(torch.cat(means), truth),
        "time_ratio": taken / whole,
        "limit": LIMIT,
    }
    results["met"] = taken / whole <= LIMIT and no_worse(results["paired"], "ssim")
    write(options.out, results, USED)
    return 0 if results["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
