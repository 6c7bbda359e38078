# SPDX-License-Identifier: Apache-2.0
"""The files that ``splitguard new`` and ``splitguard init`` write."""

ATTACK = '''# SPDX-License-Identifier: Apache-2.0
"""@NAME@: in a sentence, what it recovers from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Sees, Threat, View


@ATTACKS.add("@NAME@")
@dataclass(kw_only=True)
class @CLASS@(Attack):
    """One sentence. Then the formula, the source (paper, year), and what differs from it.

    As it stands it answers every victim with the mean of the auxiliary images, so that the contract's last check,
    better than a blind guess, fails until there is an attack here.

    Args:
        steps: what it is, its unit and its range.
    """

    steps: int = 100

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(needs=Sees.SMASHED | Sees.AUX)
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadSetting(f"steps must be at least 1; got {self.steps}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """Guesses the inputs of ``view.ids``."""
        view.need(self.threat.needs)
        mean = view.aux.inputs.mean(0)
        return Guess(
            view.ids, images=mean.expand(len(view.ids), *view.input_shape).clone(), budget=Budget(aux=len(view.aux))
        )
'''

DEFENSE = '''# SPDX-License-Identifier: Apache-2.0
"""@NAME@: in a sentence, what it does to what crosses the cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense


@DEFENSES.add("@NAME@")
@dataclass(kw_only=True)
class @CLASS@(Defense):
    """One sentence. Then the formula, the source (paper, year), and what differs from it.

    Args:
        scale: what it is, its unit and its range; 1 is the null case, exact to the bit.
    """

    scale: float = 1.0

    acts: ClassVar[str] = "smashed data"
    per_sample: ClassVar[bool] = True
    null: ClassVar[Mapping[str, Any] | None] = {"scale": 1.0}
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise BadSetting(f"scale must be above 0; got {self.scale}")

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """What leaves the client."""
        return self.mean_release(smashed)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """The part without noise."""
        return smashed * self.scale

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """One fresh draw, for attackers who know the defense."""
        return self.mean_release(smashed)
'''

MATRIX = """# A splitguard matrix: every list is an axis, and every combination is a cell.
#   splitguard run @FILE@ --out runs/mine --dry-run     says what would run
#   splitguard run @FILE@ --out runs/mine --jobs 2      runs it, or goes on where it stopped

title: What leaks at which cut

data:
  name: faces                 # embedded; or fashion-mnist, cifar10, {name: folder, path: my/images, size: 32}, ...
  clients: 2
  partition: iid              # or {dirichlet: {alpha: 0.3}}, {shards: {per_client: 2}}

model: lenet                  # or resnet18, vgg11, {factory: "my.module:make", weights: head.safetensors}, ...

mode: [vanilla, u-shaped]     # also splitfed, {vanilla: {labels: server}}
cut: [conv1, conv2]           # `splitguard cuts lenet --input 1x25x25` lists them

defense:
  - none
  - gaussian: {epsilon: [8, 200], delta: 1.0e-5, clip: auto}
  - nopeek: {weight: 0.5}

attack: [white-box-inversion, inverse-network, gradient-norm]
profile: head-known           # the strongest adversary considered: what a sign-off must read

train: {epochs: 10, batch_size: 16, optimizer: {name: sgd, lr: 0.02, momentum: 0.9}}
seeds: [0, 1, 2]
"""
