# SPDX-License-Identifier: Apache-2.0
"""A rehearsal: the client trains the whole network alone, and keeps what an honest server's gradients look like."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.building.detection import gradient_shape
from splitguard.building.learners import rows_of, seeded
from splitguard.data.rows import Rows
from splitguard.engine.fresh import fresh_copy
from splitguard.errors import BadSetting

__all__ = ["rehearse"]


def rehearse(
    head: nn.Module,
    body: nn.Module,
    rows: Rows,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    momentum: float,
    generator: torch.Generator,
) -> Tensor:
    """Trains a copy of the head on a body drawn afresh, by SGD, and looks at the gradient at the cut in each step.

    Args:
        head: the client's, as it is before training; it is not changed.
        body: read for its architecture only.
        rows: with labels.
        steps: of the optimizer.
        batch_size: as in the session; fewer with fewer rows.
        lr: step size of SGD.
        momentum: of SGD.
        generator: draws the body's weights, the batches, and whatever layers draw.

    Returns:
        (M, 4) float64: `gradient_shape` of each step but those whose batch had no pairs to compare.

    Raises:
        BadSetting: if fewer than 3 are left.
    """
    client = copy.deepcopy(head).requires_grad_(True).train()
    server = fresh_copy(body, generator)
    optimizer = torch.optim.SGD([*client.parameters(), *server.parameters()], lr=lr, momentum=momentum)
    found = []
    size = min(batch_size, len(rows))
    with torch.enable_grad():
        for _ in range(steps):
            part = rows[rows_of(len(rows), size, generator)]
            with seeded(generator, part.inputs):
                sent = client(part.inputs)
                sent.retain_grad()
                loss = cross_entropy(server(sent.clone()), part.labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            assert sent.grad is not None
            shape = gradient_shape(sent.grad, part.labels)
            if shape is not None:
                found.append(shape)
    if len(found) < 3:
        raise BadSetting(
            f"a rehearsal needs 3 batches with rows of one label and rows of several; got {len(found)} of {steps} "
            f"steps, in batches of {size}. Give more auxiliary rows or a larger batch_size"
        )
    return torch.stack(found)
