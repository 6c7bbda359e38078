# SPDX-License-Identifier: Apache-2.0
"""What an attacker's own client would send, and be trained on, if it ran the defense that the attacker knows of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from splitguard.engine.defense import Batch
from splitguard.engine.stack import Stack
from splitguard.engine.view import View
from splitguard.seeding import generator as seeded_stream

__all__ = ["RELEASE", "abreast", "as_released", "as_stated", "as_trained", "unaware", "ways"]

#: The hooks that tell an adaptive attacker what is sent.
RELEASE = ("mean_release", "noise_std", "released_like", "residual")


def as_released(view: View, smashed: Tensor, generator: torch.Generator) -> Tensor:
    """One fresh, differentiable draw of what the defense would send for ``smashed`` (N, *cut1).

    An attacker that is not adaptive gets ``smashed`` back, unchanged.
    """
    return view.defense.released_like(smashed, generator) if view.adaptive else smashed


def as_stated(view: View, labels: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of the labels (N,) that the defense would state for rows with ``labels`` (N,).

    The client is trained on what it states. So is one that simulates it, and beside a victim's statement belongs an
    auxiliary row with a statement, not with the truth. An attacker that is not adaptive gets ``labels`` back, as does
    every other where the defense leaves labels alone.
    """
    law = view.defense.label_law() if view.adaptive else None
    if law is None:
        return labels
    return torch.multinomial(law.cpu()[labels.cpu()], 1, generator=generator)[:, 0].to(labels)


def as_trained(
    view: View, inputs: Tensor, labels: Tensor | None, smashed: Tensor, generator: torch.Generator
) -> Tensor:
    """The scalar that the defense would add to the client's loss on the attacker's own batch; 0 where it adds none.

    With it in its loss, a simulated client is trained as the defended one is: by a penalty on distance correlation,
    say, its smashed data loses the same directions.

    Args:
        view: an attacker that is not adaptive gets 0.
        inputs: (N, *in), the attacker's own.
        labels: (N,), or None where it has none.
        smashed: (N, *cut1), what the simulated head makes of them, before `as_released`.
        generator: for defenses whose penalty draws.
    """
    if not (view.adaptive and view.defense.overrides("penalty")):
        return smashed.new_zeros(())
    batch = Batch(inputs, torch.arange(len(inputs)), labels)
    added = view.defense.penalty(batch, smashed, generator)
    return smashed.new_zeros(()) if added is None else added


class _Unpenalised(Stack):
    """A defense as it would be if it added nothing to the client's loss."""

    def overrides(self, hook: str) -> bool:
        """As its parts, but for the penalty."""
        return hook != "penalty" and super().overrides(hook)


def ways(view: View) -> tuple[View, ...]:
    """One view for each stand-in that is trained: where the attacker knows of a penalty, also one that knows of none.

    To train as the client does is not always to end where it ended: now a stand-in trained with the penalty comes
    closer to the client and now one without, and nothing that the attacker has tells which. So it trains both, and
    takes the mean of what comes of them, at twice the steps.
    """
    if not (view.adaptive and view.defense.overrides("penalty")):
        return (view,)
    return view, replace(view, defense=_Unpenalised([view.defense]))


def abreast(view: View, generator: torch.Generator) -> Iterator[tuple[View, torch.Generator]]:
    """`ways`, each with random numbers of its own.

    The one that knows of no penalty draws from ``generator``, as if it were alone: where a penalty is all that there is
    to know, that stand-in is to the bit the one of an attacker who is not adaptive. So knowing it adds to what there
    was. The other draws from a stream that branches off and leaves ``generator`` as it was.
    """
    *others, last = ways(view)
    for way in others:
        ahead = torch.Generator().set_state(generator.get_state())
        yield way, seeded_stream(int(torch.randint(2**62, (1,), generator=ahead)), "with the penalty")
    yield last, generator


def unaware(view: View, hooks: tuple[str, ...] = RELEASE) -> View | None:
    """The same view for an attacker that is not adaptive; None where knowing the defense changes nothing.

    To know a defense is not always to gain by it: a likelihood may be harder to climb than a plain distance, and fresh
    noise in each step slower to learn from. So an adaptive attack also tries what this view allows, on auxiliary rows
    that play victims, and goes on with the better.

    Args:
        view: one that is not adaptive has no other.
        hooks: of the defense, through which the attack knows it.
    """
    known = view.adaptive and any(view.defense.overrides(hook) for hook in hooks)
    return replace(view, adaptive=False) if known else None
