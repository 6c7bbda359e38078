# SPDX-License-Identifier: Apache-2.0
"""What defenses of labels share: whom they defend against, and where there is nothing for them to defend."""

from __future__ import annotations

from torch import Tensor

from splitguard.building.rows_alone import adversary, row_norms
from splitguard.engine.defense import Deployment
from splitguard.engine.threat import Labels
from splitguard.errors import Diverged, NotSupported

__all__ = ["against", "finite_norms", "need_returned_gradient"]


def against(deployment: Deployment) -> str:
    """Who learns about labels that it does not own: a noun phrase.

    Where the client owns the labels, the server: they are sent to it, or reach it through the gradient that the client
    returns at the second cut. Where the server owns them, the client whose rows they belong to: they reach it through
    the cut gradient.
    """
    return "the client whose row it is" if deployment.labels is Labels.SERVER else adversary(deployment.mode)


def finite_norms(grad: Tensor, name: str) -> Tensor:
    """(N,): the L2 norm of each row.

    Raises:
        Diverged: if one is not finite: noise that is made of a whole batch would spread that over all its rows.
    """
    norms = row_norms(grad)
    if not bool(norms.isfinite().all()):
        raise Diverged(
            f"{name}: a gradient is not finite, and the noise is made of its whole batch; nothing was returned"
        )
    return norms


def need_returned_gradient(deployment: Deployment, name: str) -> None:
    """Refuses a deployment in which the label owner returns no gradient that could be defended.

    Raises:
        NotSupported: where the labels themselves are sent.
    """
    if deployment.labels is Labels.SENT:
        raise NotSupported(
            f"{name} hides labels in the gradient that their owner returns, and with labels: sent they go out as they "
            "are. Use label-dp, or a deployment in which they stay with their owner: two cuts (labels: client), or "
            "labels: server"
        )
