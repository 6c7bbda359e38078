# SPDX-License-Identifier: Apache-2.0
"""He et al.'s three attacks as their code has them, and ours, on the same network and the same images.

Run: ``python -m benchmarks.reference_he mnist [--images 20] [--out FILE]``, or ``cifar``. Data, network, training and
the settings of ours are those of benchmarks/reproduce/papers/he2019-mnist.yaml and he2019-cifar.yaml. Theirs have the
steps of their code: 5,000 of rMLE, 50 epochs of a decoder, 50 of a shadow and 500 of rMLE through it. Their MNIST
network is not padded where LeNet is here; the decoders are theirs with the padding that this asks for.

A decoder guesses at all query victims, the others at the first ``--images``, as theirs take minutes for them.
``--out`` is written after each attack, and a run goes on where an earlier one of the same matrix stopped.

The exit status is 1 if ours is worse than theirs anywhere, by the one-sided 95 % limit of the difference in SSIM image
by image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.he2019 import Pixels, decoded, inverted, shadow
from benchmarks.paired import compared, no_worse
from benchmarks.reproduce.__main__ import PAPERS
from benchmarks.sessions import trained
from benchmarks.timing import write
from benchmarks.versions import named
from splitguard.api import ATTACKS, generator
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.session import Session
from splitguard.models._normalise import IMAGENET

#: The attacks and defenses whose versions a stored result is of.
USED = ("white-box-inversion", "inverse-network", "query-free")
PIXELS = {"mnist": Pixels([0.5], [0.5]), "cifar": Pixels(*IMAGENET)}


def up(before: int, after: int, size: int) -> nn.Module:
    """A transposed convolution that doubles the image."""
    return nn.ConvTranspose2d(before, after, size, stride=2, padding=size // 2, output_padding=1)


def same(before: int, after: int, size: int) -> nn.Module:
    """One that keeps its size."""
    return nn.ConvTranspose2d(before, after, size, padding=size // 2)


#: Of each cut the weight of rMLE's total variation, and the decoder.
CUTS: dict[str, dict[str, tuple[float, Callable[[], nn.Module]]]] = {
    "mnist": {
        "conv1": (0, lambda: same(8, 1, 5)),
        "conv2": (1, lambda: nn.Sequential(same(16, 8, 5), nn.ReLU(), up(8, 1, 5))),
    },
    "cifar": {
        "conv11": (0, lambda: same(64, 3, 3)),
        "relu22": (10, lambda: nn.Sequential(up(128, 64, 3), nn.ReLU(), same(64, 3, 3))),
        "relu32": (
            1000,
            lambda: nn.Sequential(up(128, 128, 3), nn.ReLU(), up(128, 64, 3), nn.ReLU(), same(64, 3, 3)),
        ),
    },
}


def theirs(attack: str, name: str, cut: str, session: Session, sent: Tensor) -> Tensor:
    """The guesses of their attack at the images behind ``sent``."""
    tv, make_decoder = CUTS[name][cut]
    head, aux, pixels = session.split.head.eval().requires_grad_(False), session.data.aux, PIXELS[name]
    shape, draws = session.data.input_shape, generator(0, "he2019", cut, attack)
    if attack == "white-box-inversion":
        return inverted(head, sent, shape, pixels, steps=5000, tv=tv)
    if attack == "query-free":
        fresh = fresh_copy(session.split.head, draws)
        stand_in = shadow(fresh, session.split.body, (aux.inputs, aux.labels), epochs=50, generator=draws)
        return inverted(stand_in, sent, shape, pixels, steps=500, tv=2, lr=0.1)
    with torch.no_grad():
        pairs = torch.cat([head(part) for part in aux.inputs.split(250)]), aux.inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = make_decoder()
    return decoded(decoder, pairs, sent, pixels, epochs=50, generator=draws)


def written(matrix: Mapping[str, Any], cut: str) -> dict[str, str | Mapping[str, Any]]:
    """Our attacks at one cut, by name, as the matrix or the block of that cut has them."""
    given = next((block for block in matrix.get("blocks", []) if block["cut"] == cut), matrix)
    return {next(iter(a)) if isinstance(a, Mapping) else a: a for a in given["attack"]}


def case(
    session: Session, ours: str | Mapping[str, Any], guess: Callable[[Session, Tensor], Tensor], count: int | None
) -> dict[str, Any]:
    """Our attack beside another's ``guess`` from what was sent, on the first ``count`` query victims or on all."""
    built = ATTACKS.build(ours)
    view = session.view(built, phase="query")
    sent = session.view(ATTACKS.build("white-box-inversion"), phase="query").releases.last(view.ids).smashed
    images = built.run(view, generator(0, "benchmark", built.name)).images
    assert images is not None
    return compared(images[:count], guess(session, sent[:count]), session.truth(view.ids).inputs[:count])


def _finished(out: Path | None, matrix: Mapping[str, Any], images: int) -> dict[str, Any]:
    """The cases that an earlier run left in ``out``, if it was of this matrix, these images and today's attacks."""
    if out is None or not out.exists():
        return {}
    found = json.loads(out.read_text(encoding="utf-8"))
    alike = (found["versions"], found.get("matrix"), found.get("images")) == (named(*USED), matrix, images)
    return dict(found["cases"]) if alike else {}


def main() -> int:
    """Runs all cuts; 1 if ours is worse somewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(CUTS))
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paper = yaml.safe_load((PAPERS / f"he2019-{options.name}.yaml").read_text(encoding="utf-8"))
    cases = _finished(options.out, paper["matrix"], options.images)
    met = False
    for cut in CUTS[options.name]:
        session = trained(paper["matrix"], cut=cut, seed=0)
        ours = written(paper["matrix"], cut)
        for attack in USED:
            at = f"{attack} at {cut}"
            guess = partial(theirs, attack, options.name, cut)
            count = None if attack == "inverse-network" else options.images
            # What was done already moves to the end too, so that the order is the same after a stop.
            cases[at] = cases.pop(at, None) or case(session, ours[attack], guess, count)
            met = all(no_worse(one, "ssim") for one in cases.values())
            found = {"what": f"he2019-{options.name}", "matrix": paper["matrix"], "images": options.images}
            write(options.out, {**found, "cases": cases, "met": met}, USED)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
