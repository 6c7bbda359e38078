# SPDX-License-Identifier: Apache-2.0
"""FORA: a substitute client learns to send what the real one sends, from unlabelled samples alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from splitguard.api import ATTACKS, BadSetting, Goal, Party, Sees, Threat, View
from splitguard.building.beside import Beside, Given
from splitguard.building.critics import gradient_penalty, make_critic
from splitguard.building.learners import Learners, rows_of
from splitguard.building.mmd import mk_mmd
from splitguard.building.pseudo_client import make_client
from splitguard.building.simulate import as_released, as_trained


@ATTACKS.add("fora")
@dataclass(kw_only=True)
class FORA(Beside):
    """Trains a substitute client f~ until its smashed data cannot be told from the real ones, then inverts it.

        min_f~  (1 - a) mean D(q(f~(x))) + a MMD^2(q(f~(x)), z) + what the defense adds to a client's loss
        min_D   mean D(z) - mean D(q(f~(x))) + penalty mean (||grad D(u)|| - slope)^2

    with x unlabelled auxiliary samples, z the smashed data that has just arrived, as many of one as of the other, q a
    fresh draw of the defense, D a critic, and u between q(f~(x)) and z; the length of grad D is over all coordinates
    of a sample. MMD is the maximum mean discrepancy of five Gaussian kernels, `mk_mmd`. After the session f~ and D go
    on with the smashed data that came last. Then a decoder is trained on pairs (q(f~(x)), x), and reads z.

    The server's layers, labels and gradients are not used: who owns the labels makes no difference. A distribution may
    be met in more ways than one: where images are as likely as their negatives, say, f~ may settle on the negatives.
    An attacker that is not adaptive takes q for the identity; an adaptive one tries that for the decoder too, see
    `Beside.decoded`. Against a penalty it trains a second f~ without it, and x_hat is the mean of both.

    Args:
        a: weight of the discrepancy against the critic, in [0, 1].
        penalty: weight of the critic's gradient penalty.
        slope: which slope of D it asks for, 0 or 1; see `fsha`.
        steps: optimizer steps of f~ and of D an exchange.
        finish: the same after the session.
        width: channels of f~.
        critic_width: channels of D.
        critic_blocks: its residual blocks.
        lr: Adam's step size for f~.
        critic_lr: Adam's step size for D.
        batch_size: rows a step after the session, and images a step of the decoder.
        keep: rows of smashed data that are kept for the steps after the session, the latest ones.
        decode: optimizer steps of the decoder, and of each one that is tried.
        decoder_width: its channels.
        aux: auxiliary samples, at most.

    Raises:
        BadSetting: for a setting out of its range.
        NotSupported: from `run`, if it has not watched a session.

    Source: Xu et al., A stealthy wrongdoer: Feature-oriented reconstruction attack against split learning, CVPR 2024,
    and its code. Differences: there 40,000 exchanges at step sizes of 1e-4 (f~) and 3e-4 (D), here far fewer, for which
    the critic's slope 1 at the weight 1000 guides too slowly; f~ of VGG blocks with BatchNorm, a critic six blocks deep
    and 256 wide, here both made from two shapes, without normalisation; the decoder learns along with f~, here from the
    finished f~; no defense is known of.
    """

    a: float = 0.8
    penalty: float = 10.0
    slope: float = 0.0
    width: int = 32
    critic_width: int = 32
    critic_blocks: int = 2
    lr: float = 1e-3
    critic_lr: float = 3e-4

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.AUX, (Party.SERVER,))
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Xu et al., Feature-oriented reconstruction attack, CVPR 2024"
    # A critic needs more than the contract's few exchanges before it guides; there the discrepancy leads.
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "a": 0.98,
            "steps": 2,
            "finish": 40,
            "width": 16,
            "critic_width": 8,
            "critic_blocks": 1,
            "decode": 40,
            "batch_size": 16,
        }
    )
    least: ClassVar[Mapping[str, float]] = {
        **Beside.least,
        "penalty": 0,
        "width": 1,
        "critic_width": 1,
        "critic_blocks": 0,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.a <= 1:
            raise BadSetting(f"fora: a is a share in [0, 1]; got {self.a!r}")
        if self.slope not in (0, 1):
            raise BadSetting(f"fora: slope is 0 or 1; got {self.slope!r}")
        for name in ("lr", "critic_lr"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"fora: {name} must be positive; got {getattr(self, name)!r}")

    def networks(self, view: View, generator: torch.Generator) -> Learners:
        """f~ and D."""
        cut = view.cut_shapes[0]
        client = make_client(view.input_shape, cut, width=self.width, generator=generator)
        critic = make_critic(cut, width=self.critic_width, blocks=self.critic_blocks, generator=generator)
        return Learners({"client": (client, self.lr), "critic": (critic, self.critic_lr)})

    def learn(self, nets: Learners, view: View, given: Given, generator: torch.Generator) -> None:
        """One step of f~ and one of D, from the same smashed data."""
        sent = given.sent
        if sent is None or len(sent) < 2:
            return  # one row alone has no distribution
        aux, critic = view.aux.inputs[: self.aux], nets["critic"]
        inputs = aux[rows_of(len(aux), len(sent), generator)].to(sent)
        made = nets["client"](inputs)
        shown = as_released(view, made, generator)
        loss = (1 - self.a) * critic(shown).mean() + self.a * mk_mmd(shown, sent)
        loss = loss + as_trained(view, inputs, None, made, generator)
        apart = critic(sent).mean() - critic(shown.detach()).mean()
        slope = gradient_penalty(critic, shown, sent, generator, slope=self.slope)
        nets.learn((loss, "client"), (apart + self.penalty * slope, "critic"))
