# SPDX-License-Identifier: Apache-2.0
"""Where a deployment is cut: names as the user wrote them to the cuts that are used."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from splitguard.engine.cut import LOGITS, Cut, legal_cuts
from splitguard.engine.defense import Defense
from splitguard.engine.threat import Labels, Mode, check_labels
from splitguard.errors import BadCut, NotSupported, near_miss

__all__ = ["Placement", "resolve"]


@dataclass(frozen=True)
class Placement:
    """Resolved cuts.

    Attributes:
        cuts: canonical names after `Defense.place`; this is what is trained, and what keys are made of.
        base: the cuts before the defense moved them.
        labels: who owns the labels.
        legal: every legal cut, in network order.
    """

    cuts: tuple[str, ...]
    base: tuple[str, ...]
    labels: Labels
    legal: tuple[Cut, ...]


def resolve(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    mode: Mode,
    cut: str | tuple[str, ...] | None,
    labels: Labels | None = None,
    defense: Defense | None = None,
    legal: tuple[Cut, ...] | None = None,
) -> Placement:
    """Finds the cuts of a deployment and who owns the labels.

    Args:
        module: the whole network.
        input_shape: of one input.
        mode: with ``u-shaped`` and one cut, the second is the legal cut before the last layer.
        cut: a layer, two layers, or ``"first..second"``; None means the first legal cut after a layer with parameters.
            ``"logits"`` is the output of the last layer: the loss alone is computed behind it.
        labels: None means ``client`` with two cuts and ``sent`` with one.
        defense: may move the cuts.
        legal: what `legal_cuts` says of this network, where the caller knows it; finding it takes a second or more
            for a deep one.

    Raises:
        BadCut: with the legal cuts near the one asked for.
        NotSupported: if the labels' owner does not fit the number of cuts, or a server would be left nothing to do.
    """
    legal = tuple(legal_cuts(module, input_shape)) if legal is None else legal
    if not legal:
        raise BadCut("this network has no legal cut: every place between its layers is bridged by a skip connection")
    first = next((c for c in legal if c.client_params > 0), legal[0])
    names = tuple(cut.split("..")) if isinstance(cut, str) else (cut or (first.name,))
    if len(names) > 2 or not all(names):
        raise BadCut(f"a cut is one layer or two, as in conv2 or conv2..fc1; got {cut!r}")
    if mode is Mode.U_SHAPED and len(names) == 1:
        names = (names[0], legal[-1].name)
    base = tuple(canonical(name, legal) for name in names)
    _in_order(base, legal)
    cuts = defense.place(base, legal) if defense is not None else base
    _in_order(cuts, legal)
    owner = labels or (Labels.CLIENT if len(cuts) == 2 else Labels.SENT)
    if mode is not Mode.CENTRALIZED:
        check_labels(owner, len(cuts), mode)
    if cuts == (LOGITS,) and owner is Labels.SENT:
        raise NotSupported(
            "cut: logits with labels: sent leaves the server neither layers nor labels of its own; set labels: server, "
            "give two cuts as in conv2..logits, or cut earlier"
        )
    return Placement(cuts, base, owner, legal)


def canonical(name: str, legal: tuple[Cut, ...]) -> str:
    """The one name of the legal cut called ``name``; raises `BadCut` with near misses."""
    for cut in legal:
        if name == cut.name or name in cut.aliases:
            return cut.name
    if name == LOGITS:
        return LOGITS
    raise BadCut(near_miss(name, [*(c.name for c in legal), LOGITS], what="cut"))


def _in_order(cuts: tuple[str, ...], legal: tuple[Cut, ...]) -> None:
    if len(cuts) == 2:
        order = [*(c.name for c in legal), LOGITS]
        if order.index(cuts[0]) >= order.index(cuts[1]):
            raise BadCut(
                f"the second cut must come after the first; got {cuts[0]}..{cuts[1]}. "
                f"In network order: {', '.join(order)}"
            )
