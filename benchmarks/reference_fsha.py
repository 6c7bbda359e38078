# SPDX-License-Identifier: Apache-2.0
"""FSHA against the code it comes from: the time that either takes to the same error, on the same client and rows.

Run: ``python -m benchmarks.reference_fsha [--steps 500] [--reference FILE] [--out FILE]``; an hour of one core. The
client is the reference's, a residual network at level 4 on MNIST in 32x32x3, batches of 64, Adam at 1e-5. The
reference, written down from its code with its three networks and step sizes, trains it for so many steps; ours plays in
the real engine, with its own networks and the settings for a client that moves so slowly, until its error is that of
the reference at the end. They were chosen among three on another draw of rows; the defaults play beside them, for as
many steps as the reference. An error is the mean squared one in
[-1, 1] on the client's own batches, over the last 50 steps. Seconds are of one core, without those for looking at
errors. The exit status is 1 unless ours takes at most 60 % of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss, relu

from benchmarks.timing import write
from splitguard.api import Exchange
from splitguard.attacks.fsha import Fsha
from splitguard.building.learners import Learners
from splitguard.data import Data, Pool, Rows, draw, open_pool
from splitguard.engine.train import train
from splitguard.engine.training import Training

BATCH, RATE, CRITIC_RATE, PENALTY = 64, 1e-5, 1e-4, 500.0
#: The attacks and defenses whose versions a stored result is of.
USED = ("fsha",)
#: What `fsha` says of clients that move slowly.
SLOW = {"warm_up": 0, "critic_lr": 1e-4, "slope": 1.0, "penalty": 500.0, "gain": 1.0}
#: How many steps ours may take at most, in steps of the reference.
MOST = 3
#: Steps over which an error is taken, and the share of the reference's time that ours may take.
WINDOW, LIMIT = 50, 0.6


class Block(nn.Module):
    """A residual block: twice norm, ReLU, 3x3 convolution; a convolution on the way round where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int = 1, *, norm: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) if norm else nn.Identity() for c in (inside, outside))
        self.one = nn.Conv2d(inside, outside, 3, stride, 1)
        self.two = nn.Conv2d(outside, outside, 3, 1, 1)
        self.round = nn.Conv2d(inside, outside, 3, stride, 1) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, or halved."""
        made: Tensor = self.two(relu(self.norms[1](self.one(relu(self.norms[0](x))))))
        around: Tensor = self.round(x)
        return around + made


def drawn(network: nn.Sequential) -> nn.Sequential:
    """With the weights that Keras would draw: Glorot's uniform ones, and no bias."""
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.xavier_uniform_(part.weight)
            assert part.bias is not None
            nn.init.zeros_(part.bias)
    return network


def client() -> nn.Sequential:
    """The reference's client at level 4, (N, 3, 32, 32) to (N, 256, 4, 4)."""
    first = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return drawn(nn.Sequential(*first, Block(64, 64), Block(64, 128, 2), Block(128, 128), Block(128, 256, 2)))


def server() -> nn.Sequential:
    """Its pilot and its inverse, linear but for the tanh at the end, as the code has them."""
    down = ((3, 64, 2), (64, 128, 2), (128, 256, 2), (256, 256, 1))
    pilot = nn.Sequential(*(nn.Conv2d(a, b, 3, s, 1) for a, b, s in down))
    up = (nn.ConvTranspose2d(a, b, 3, 2, 1, 1) for a, b in ((256, 256), (256, 128), (128, 3)))
    return drawn(nn.Sequential(pilot, nn.Sequential(*up, nn.Tanh())))


def critic() -> nn.Sequential:
    """Its critic, (N, 256, 4, 4) to (N, 1)."""
    blocks = (Block(256, 256, norm=False) for _ in range(6))
    last = [nn.Conv2d(256, 256, 3, 2, 1), nn.Flatten(), nn.Linear(1024, 1)]
    return drawn(nn.Sequential(nn.Conv2d(256, 256, 3, 1, 1), *blocks, *last))


def reference(data: Data, steps: int) -> dict[str, Any]:
    """The error after so many steps, and their seconds, the client's part included."""
    nets = Learners({"client": (client(), RATE), "server": (server(), RATE), "critic": (critic(), CRITIC_RATE)})
    errors, seconds, curve = deque[float](maxlen=WINDOW), 0.0, []
    for number in range(steps):
        private, public = (2 * batch(rows, number) - 1 for rows in (data.train, data.aux))
        began = time.process_time()
        pilot, inverse = nets["server"].children()
        z, codes = nets["client"](private), pilot(public)
        theirs, ours = nets["critic"](z).mean(), nets["critic"](codes).mean()
        share = torch.rand(BATCH, 1, 1, 1)
        between = (share * z.detach() + (1 - share) * codes.detach()).requires_grad_()
        [slope] = torch.autograd.grad(nets["critic"](between).sum(), between, create_graph=True)
        # One norm for each channel: over places alone.
        steep = (slope.square().sum((2, 3)).sqrt() - 1).square().mean()
        rebuilt = mse_loss(inverse(codes), public)
        nets.learn((theirs, "client"), (rebuilt, "server"), (ours - theirs + PENALTY * steep, "critic"))
        seconds += time.process_time() - began
        with torch.no_grad():
            errors.append(float(mse_loss(inverse(z), private)))
        if (number + 1) % WINDOW == 0:
            curve.append(sum(errors) / len(errors))
    return {"steps": steps, "mse": sum(errors) / len(errors), "seconds": seconds, "every_50": curve}


def batch(rows: Rows, number: int) -> Tensor:
    """The images of a step, in the order of the rows, from the first again after the last."""
    return rows.inputs[torch.arange(number * BATCH, (number + 1) * BATCH) % len(rows)]


class Reached(Exception):
    """The error of the reference is reached."""


class Watched(Fsha):
    """`fsha`, and how far it is: only the benchmark knows the client's rows."""

    def follow(self, rows: Rows, wanted: float, steps: int) -> None:
        """Says against what its guesses are held, and when to stop at the latest."""
        self.rows, self.wanted, self.most = rows, wanted, steps
        self.errors, self.looking = deque[float](maxlen=WINDOW), 0.0

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        """As `fsha`; ends the session by an exception."""
        given = super().backward(exchange, honest)
        paused = time.process_time()
        with torch.no_grad():
            guess = self._nets["inverse"](exchange.smashed)
        self.errors.append(float(mse_loss(guess, 2 * self.rows.of(exchange.ids).inputs - 1)))
        self.looking += time.process_time() - paused
        there = len(self.errors) == WINDOW and sum(self.errors) / WINDOW <= self.wanted
        if there or exchange.step + 1 >= self.most:
            raise Reached(exchange.step + 1)
        return given


def ours(data: Data, wanted: float, steps: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Steps and seconds of `fsha` with these settings to the wanted error, or what it reached in so many steps."""
    attack, done = Watched(**settings), 0
    attack.follow(data.train, wanted, steps)
    network = nn.Sequential()
    network.add_module("client", client())
    network.add_module("flat", nn.Flatten())
    network.add_module("server", nn.Linear(4096, data.classes))
    training = Training(epochs=steps, batch_size=BATCH, optimizer={"name": "adam", "lr": RATE})
    began = time.process_time()
    try:
        train(network, data, cut="client.7", training=training, active=attack)
    except Reached as reached:
        done = int(str(reached))
    seconds = time.process_time() - began - attack.looking
    return {"steps": done, "mse": sum(attack.errors) / len(attack.errors), "seconds": seconds}


def resized() -> Data:
    """MNIST in 32x32 and three equal channels, as the reference has it."""
    pool = open_pool("mnist")
    images = interpolate(pool.inputs.float() / 255, size=(32, 32), mode="bilinear", align_corners=False)
    large = Pool("mnist-32", images.clamp(0, 1).repeat(1, 3, 1, 1), pool.labels)
    return draw(large, train=5760, test=100, aux=2000, victims={"member": 8, "query": 8}, seed=0)


def main() -> int:
    """Runs the benchmark; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="of the reference")
    parser.add_argument("--reference", type=Path, help="an earlier result: its run of the reference is used again")
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = resized()
    # The same for every image, whatever was sent: what a method must come below to have learned something.
    blind = mse_loss(2 * data.aux.inputs.mean(0).expand_as(data.train.inputs) - 1, 2 * data.train.inputs - 1)
    if settings.reference is None:
        theirs = reference(data, settings.steps)
    else:
        theirs = json.loads(settings.reference.read_text(encoding="utf-8"))["reference"]
    found = ours(data, theirs["mse"], MOST * theirs["steps"], SLOW)
    results: dict[str, Any] = {
        "ours": found,
        "defaults": ours(data, theirs["mse"], theirs["steps"], {}),
        "reference": theirs,
        "mse_of_the_mean_image": float(blind),
    }
    results |= {"time_ratio": found["seconds"] / theirs["seconds"], "limit": LIMIT}
    results["met"] = found["mse"] <= theirs["mse"] and results["time_ratio"] <= LIMIT
    write(settings.out, results, USED)
    return 0 if results["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
