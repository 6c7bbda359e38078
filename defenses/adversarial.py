# SPDX-License-Identifier: Apache-2.0
"""Adversarial training: the client simulates an inversion attacker at each step and trains its head to defeat it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.api import DEFENSES, BadSetting, Batch, Defense, Deployment, NotSupported, Spec, generator
from splitguard.building.simulated_attacker import SimulatedAttacker, mean_image
from splitguard.metrics import ssim

__all__ = ["Adversarial"]


@DEFENSES.add("adversarial")
@dataclass(kw_only=True)
class Adversarial(Defense):
    """Adds ``weight * max(SSIM(D(z), x) - floor, 0)`` of each client's batch to the client's loss.

    D is a decoder that the client trains itself, at each step and on the same batch, to maximise the same SSIM (mean
    over the batch, in [-1, 1]); its weights are fixed where the head learns. The head becomes another one; what it
    sends goes out as it is, and nothing is guaranteed: the measure that counts is an attacker who trains a stronger
    decoder from scratch, as the breakers do. Where several clients take part, D is handed on like the head.

    Args:
        weight: of the penalty, 0 or more; the task loss is the mean cross-entropy in nats. At 0 there is no D, and
            training is plain, to the bit.
        floor: the SSIM below which reconstructions count as harmless, in [-1, 1).
        width: channels of D.
        blocks: its residual blocks.
        lr: of Adam for D, positive.

    Raises:
        BadSetting: for settings outside their range; from `bind`, if the inputs are not images.
        NotSupported: from `bind`, for a frozen head, which no penalty trains.

    Source: Li, Rakin, Chen, He, Fan, Chakrabarti, ResSFL: a resistance transfer framework for defending model inversion
    attack in split federated learning, CVPR 2022; weight .3, floor .5 and Adam at 1e-3 are theirs, and their D has 4
    blocks of 64 channels. Differences: the head is trained so from the start, where they train an expert on another
    data set first and transfer it; the bottleneck is a defense of its own here; D starts at the mean auxiliary image.
    """

    weight: float = 0.3
    floor: float = 0.5
    width: int = 16
    blocks: int = 1
    lr: float = 1e-3
    _shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = field(default=None, init=False, repr=False, compare=False)
    _around: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _attacker: SimulatedAttacker | None = field(default=None, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Li et al., ResSFL, CVPR 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "training loss"
    null: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}
    breakers: ClassVar[tuple[Spec, ...]] = (
        {"inverse-network": {"width": 64, "blocks": 8, "lr": 0.002}},
        "white-box-inversion",
        "deep-prior",
        "sdar",
    )

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("blocks", 0)):
            if getattr(self, name) < least:
                raise BadSetting(f"adversarial: {name} must be at least {least}; got {getattr(self, name)!r}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise BadSetting(f"adversarial: weight must be a finite number, 0 or more; got {self.weight!r}")
        if not -1 <= self.floor < 1:
            raise BadSetting(f"adversarial: floor is an SSIM, at least -1 and below 1; got {self.floor!r}")
        if not 0 < self.lr < math.inf:
            raise BadSetting(f"adversarial: lr must be positive and finite; got {self.lr!r}")

    def bind(self, deployment: Deployment) -> None:
        """Takes the shapes, and the mean auxiliary image; refuses what the penalty would not change."""
        if self.weight == 0:
            return
        if deployment.head_frozen:
            raise NotSupported(
                "adversarial: the head is frozen, so a penalty on its training changes nothing. Use train: {head: "
                "trained}, or a defense of the smashed data itself, such as gaussian"
            )
        self._shapes = (deployment.cut_shapes[0], deployment.input_shape)
        self._around = mean_image(deployment.aux.inputs, deployment.input_shape)
        self._fresh(generator(0, "adversarial"))  # so that inputs which are no images are refused before training

    def modules(self) -> Mapping[str, nn.Module]:
        """D, from the first step on."""
        return {} if self._attacker is None else {"decoder": self._attacker.net}

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        """One step of D on ``smashed`` (N, *cut1) and ``batch.inputs`` (N, *in); the first one draws its weights."""
        if self.weight == 0:
            return
        if self._attacker is None:
            self._attacker = self._fresh(generator)
        self._attacker.learn(smashed, batch.inputs, lambda images, truth: -ssim(images, truth).mean())

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        """``weight * max(SSIM - floor, 0)``, a scalar in 0..weight (1 - floor); None at weight 0."""
        if self.weight == 0:
            return None
        # Somebody may ask before D has learnt anything; what is drawn for the answer is not kept.
        attacker = self._fresh(generator) if self._attacker is None else self._attacker
        likeness = ssim(attacker.images(smashed), batch.inputs.float()).mean()
        return (self.weight * (likeness - self.floor).clamp(min=0)).to(smashed.dtype)

    def outside(self) -> Defense:
        """With a D that has learnt nothing: the client's own has learnt from its rows."""
        known = copy.copy(self)
        known._attacker = None
        return known

    def _fresh(self, generator: torch.Generator) -> SimulatedAttacker:
        if self._shapes is None or self._around is None:
            raise NotSupported("adversarial: the simulated attacker needs a deployment; call bind before training")
        cut, inputs = self._shapes
        return SimulatedAttacker(
            cut, inputs, around=self._around, width=self.width, blocks=self.blocks, lr=self.lr, generator=generator
        )

    def state_dict(self) -> dict[str, Any]:
        """Shapes, the mean image and D's optimizer; empty where there is no D to come."""
        if self._shapes is None:
            return {}
        return {
            "shapes": [list(shape) for shape in self._shapes],
            "around": self._around,
            "attacker": None if self._attacker is None else self._attacker.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; the weights of D come with `modules`."""
        if not state:
            return
        cut, inputs = state["shapes"]
        self._shapes, self._around = (tuple(cut), tuple(inputs)), state["around"]
        if state["attacker"] is not None:
            self._attacker = self._fresh(generator(0, "adversarial"))
            self._attacker.load_state_dict(state["attacker"])
