# SPDX-License-Identifier: Apache-2.0
"""Heads of the attacker's own making: how they are called, what they explain, and attacked in the client's place."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from splitguard.engine.threat import Sees
from splitguard.engine.view import View
from splitguard.engine.wire import DEPLOYED
from splitguard.seeding import derive, drawing

__all__ = ["latest", "live", "through_shadow"]


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
