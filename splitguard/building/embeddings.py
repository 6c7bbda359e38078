# SPDX-License-Identifier: Apache-2.0
"""What the label owner's layers are given: as it was recorded, and as the deployed network makes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitguard.engine.threat import Party, Sees
from splitguard.engine.view import View
from splitguard.engine.wire import Releases

__all__ = ["OWN_SIDE", "below_labels", "embeddings", "given_to_owner", "material"]

#: Rows that go through a network at once.
CHUNK = 256
#: What `below_labels` and `material` read, for the ``uses`` of a threat; all of it is on the attacker's own side.
OWN_SIDE = Sees.HEAD | Sees.INPUTS | Sees.BODY | Sees.FEATURES


def given_to_owner(rows: Releases) -> Tensor:
    """(R, *cut): recorded with the gradients of these rows: features in u-shaped, else smashed data."""
    return rows.smashed if rows.features is None else rows.features


def below_labels(view: View) -> nn.Module:
    """The attacker's own layers next to the labels, as deployed: a client's head, or in u-shaped the server's body."""
    return view.head() if view.party is Party.CLIENT else view.body()


def material(view: View, ids: Tensor) -> Tensor:
    """(N, *shape): what these layers take, for rows of the context: a client's inputs, or a server's smashed data."""
    return view.inputs.of(ids).inputs if view.party is Party.CLIENT else view.context.last(ids).smashed


def embeddings(view: View, ids: Tensor) -> Tensor:
    """(N, *cut): what the label owner is given for rows of the context by the attacker's layers *as deployed*.

    During an epoch the layers move, and what was recorded tells more of when a row was sent than of its class; here
    one network makes all rows.
    """
    layers, given = below_labels(view), material(view, ids)
    with torch.no_grad():
        return torch.cat([layers(part) for part in torch.split(given, CHUNK)])
