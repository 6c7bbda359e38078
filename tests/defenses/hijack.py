# SPDX-License-Identifier: Apache-2.0
"""Small sessions on which detectors are tried: an honest server, and one that hijacks by feature-space hijacking."""

from __future__ import annotations

from splitguard.attacks.fsha import Fsha
from splitguard.data import load
from splitguard.engine.defense import Defense
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.models import make_model

__all__ = ["STEPS", "session"]

#: Steps of a session that is not stopped: 88 rows in batches of 8, 9 times.
STEPS = 99


def session(defense: Defense | None, *, seed: int, hijacked: bool, epochs: int = 9, clients: int = 1) -> Session:
    """LeNet on `faces` (25x25), cut at conv1; what detectors see of it depends on the seed alone."""
    data = load({"name": "faces", "clients": clients}, seed=seed)
    attack = Fsha(warm_up=10, critic_lr=2e-3, width=8, critic_width=16, blocks=0) if hijacked else None
    return train(
        make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=seed),
        data,
        cut="conv1",
        defense=defense,
        active=attack,
        seed=seed,
        training=Training(
            epochs=epochs, batch_size=8, optimizer={"name": "sgd", "lr": 0.02, "momentum": 0.9}, evaluate="last"
        ),
    )
