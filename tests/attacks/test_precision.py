# SPDX-License-Identifier: Apache-2.0
"""Attacks on deployments that compute in another precision than float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from splitguard.api import ATTACKS, Mode, NotSupported, OnlineAttack, Party, Profile
from splitguard.engine.session import Session
from splitguard.engine.threat import refusal
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.seeding import generator
from tests.engine import toys

pytestmark = pytest.mark.slow

WAYS: dict[str, dict[str, Any]] = {
    "vanilla": {"mode": Mode.VANILLA, "cut": "conv2"},
    "u-shaped": {"mode": Mode.U_SHAPED, "cut": ("conv2", "relu3")},
}
SLOW = {"deep-prior": {"steps": 2}, "unsplit": {"steps": 2}}
#: Not for these deployments: rows with attributes, a cut at the logits, labels that a defense changes.
ELSEWHERE = {"attribute", "direct", "stated-labels"}


def after() -> list[str]:
    """Attacks by the server on a session that is over."""
    found = {name: ATTACKS.build(name) for name in ATTACKS if name not in ELSEWHERE}
    return sorted(n for n, a in found.items() if not isinstance(a, OnlineAttack) and Party.SERVER in a.threat.parties)


@pytest.fixture(scope="module")
def sessions() -> dict[tuple[str, str], Session]:
    data = replace(toys.data(1), aux=toys.rows(40, 2000, torch.Generator().manual_seed(1)))
    return {
        (way, precision): train(
            toys.lenet(), data, training=Training(epochs=1, batch_size=16, precision=precision), **how
        )
        for way, how in WAYS.items()
        for precision in ("float64", "bfloat16")
    }


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", after())
def test_an_attack_runs_whatever_the_deployment_computes_in(
    name: str, precision: str, sessions: dict[tuple[str, str], Session]
) -> None:
    ran = 0
    for way in WAYS:
        session = sessions[way, precision]
        attack = ATTACKS.build({name: {**ATTACKS.build(name).quick, **SLOW.get(name, {})}})
        *_, reason = refusal(
            attack.threat, attack.goal, mode=session.mode, labels=session.labels, profile=Profile.ACTIVE
        )
        if reason is None:
            try:
                view = session.view(attack)
                guess = attack.run(view, generator(0, name))
            except NotSupported:  # with a reason of its own
                continue
            assert len(guess.ids) == len(view.ids)
            ran += 1
    assert ran
