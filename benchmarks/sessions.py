# SPDX-License-Identifier: Apache-2.0
"""The session of one seed, trained as a matrix has it, for a benchmark that needs more of it than its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitguard.api import OnlineAttack
from splitguard.data import load
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.models import make_model

__all__ = ["trained"]


def trained(matrix: Mapping[str, Any], *, cut: str, seed: int, beside: Sequence[OnlineAttack] = ()) -> Session:
    """Vanilla and undefended.

    Args:
        matrix: ``data`` (with ``name``), ``model`` and ``train``, as in a matrix file.
        cut: the last layer of the head.
        seed: of rows, weights and training.
        beside: attacks that watch.
    """
    given = dict(matrix["data"])
    data = load({given.pop("name"): given}, seed=seed)
    network = make_model(matrix["model"], input_shape=data.input_shape, classes=data.classes, seed=seed)
    return train(network, data, cut=cut, training=Training(**matrix["train"]), seed=seed, beside=beside)
