# SPDX-License-Identifier: Apache-2.0
"""Labels by a classifier that the attacker puts on its own trained layers, from a few labelled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from splitguard.api import ATTACKS, Attack, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.completion import READS, Completion


@ATTACKS.add("model-completion")
@dataclass(kw_only=True)
class ModelCompletion(Completion, Attack):
    """Completes the model above the cut: h trained semi-supervised on f(x), f the attacker's own trained layers.

        min_h  CE(h(f(x')), y') + ramp unlabelled ||p(h(f(u'))) - q'||^2,    label(n) = argmax h(f(x_n))

    with (x', y') and (u', q') by MixMatch from labelled rows and from the victims. f is a client's head on its own
    inputs, or in u-shaped the server's body on recorded smashed data. It reads no gradient: what labels shape in f by
    training is enough, and defenses of gradients leave that in place.

    Labelled are the known samples, to which a client adds auxiliary rows, sent through its own head. Shifted images and
    maps are the other versions that MixMatch asks for.

    Args:
        labelled: rows a class that known samples are filled up to; where more are known, all of them are used.
        queries: lets a server, too, add auxiliary rows, by what the deployed pipeline answers to them. That pays where
            the head is frozen; one that trained on has left the recorded rows behind.
        layers: of h, each BatchNorm, ReLU, linear; hidden ones have 128 units.
        finetune: trains a copy of f along.
        steps: optimizer steps.
        lr: Adam's step size.
        batch_size: labelled rows a step, and as many unlabelled ones.
        temperature: of the sharpening, in (0, 1].
        alpha: of the Beta distribution that mixing shares are drawn from; 0 mixes nothing.
        unlabelled: weight of the second term; it rises from 0 over the steps.
        average: decay of the averaged weights that label the victims.

    Source: Fu et al., Label inference attacks against vertical federated learning, USENIX Security 2022 (passive; Adam
    2e-3, batch 16, T .8, alpha .75, weight 50, decay .999, four labelled rows a class on CIFAR-10). Differences: f is
    frozen unless ``finetune``, there so on tabular data only; h scales its input to length 1, and starts from random
    weights, not from ones; 600 steps, there 25 epochs of 1024; no flips.
    """

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.KNOWN, (Party.SERVER, Party.CLIENT), uses=READS)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Fu et al., Label inference attacks against vertical federated learning, USENIX Sec 2022"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 100})

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K), log-probabilities."""
        view.need(self.threat.needs)
        return self.complete(view, generator)
