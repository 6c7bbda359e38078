# SPDX-License-Identifier: Apache-2.0
"""Heads of the attacker's own making: how they are trained, compared with what was sent, and attacked in its place."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from splitguard.engine.threat import Sees
from splitguard.engine.view import View
from splitguard.engine.wire import DEPLOYED
from splitguard.seeding import derive, drawing

__all__ = ["latest", "live", "moment_gap", "through_shadow"]


def live(module: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """``module(inputs)``, whose dropout draws from ``generator`` and not from the global one."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "shadow")):
        out: Tensor = module(inputs)
    return out


def latest(view: View) -> tuple[Tensor, int]:
    """What was sent of each victim, for an attacker who has one head of its own to explain it with.

    Returns:
        (N, *cut) and T: the mean of T releases where one head made all of them, as a frozen one does; else the last
        release and 1, since a mean over heads that differ is what no head makes. Also the last where the defense hides
        which coordinates count, because releases with different masks have no mean, and for an attacker that is not
        adaptive.
    """
    releases = view.releases
    if not (view.adaptive and releases.one_head) or view.defense.overrides("residual"):
        return releases.last(view.ids).smashed, 1
    return releases.means(view.ids)


def through_shadow(view: View, shadow: nn.Module) -> View:
    """A view in which ``shadow`` is the client's head, so that every white-box attack can be made through it.

    Releases of one unchanging head stay releases of one head; where the head moved while it was trained, the shadow
    explains the last ones only, and the earlier ones are taken as made by heads that nobody knows.
    """
    shadow = shadow.eval().requires_grad_(False)
    rows = view.releases
    if not rows.one_head:
        rows = replace(rows, head=torch.full_like(rows.head, DEPLOYED))
    state = {f"head.{name}": value for name, value in shadow.state_dict().items()}
    models = replace(view.models, head=lambda at: copy.deepcopy(shadow), state=lambda at: state)
    return replace(view, granted=view.granted | Sees.HEAD, models=models, _releases=rows)


def moment_gap(made: Tensor, sent: Tensor) -> Tensor:
    """How far first and second moments of two sets of smashed data are apart, a scalar, 0 where they agree.

        mean_d (m_d - m'_d)^2 / mean_c v'_c  +  ||C - C'||_F^2 / ||C'||_F^2

    with m the mean of each coordinate, C the covariance of the channels over rows and places (of the units where
    smashed data has no places), v its diagonal, and a prime for ``sent``. Where what was sent has no spread, as a
    single row has none at a flat cut, it is the first term alone, over the mean square of m'.

    Args:
        made: (M, *cut), differentiable.
        sent: (N, *cut).
    """
    (mean, own), (wanted, theirs) = _moments(made), _moments(sent)
    apart, spread = (mean - wanted).square().mean(), theirs.diagonal().mean()
    if not float(spread) > 0:
        return apart / (wanted.square().mean() + torch.finfo(sent.dtype).tiny)
    return apart / spread + (own - theirs).square().sum() / theirs.square().sum()


def _moments(smashed: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each coordinate (*cut), and the covariance of the channels (C, C)."""
    units = smashed.flatten(2).transpose(1, 2).flatten(0, 1) if smashed.ndim > 2 else smashed
    apart = units - units.mean(0)
    return smashed.mean(0), apart.T @ apart / len(units)
