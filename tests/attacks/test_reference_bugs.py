# SPDX-License-Identifier: Apache-2.0
"""Faults of published codes that are a number or a default: each would be seen here.

Those that are a step of an algorithm are held where that algorithm is tested.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from torch import nn

from benchmarks import reference_fsha
from splitguard.api import ATTACKS, View
from splitguard.attacks.fsha import Fsha
from splitguard.attacks.sdar import Sdar
from splitguard.cli import attack
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.facade import Trained
from splitguard.matrix import Matrix
from tests.attacks.views import Centre, gen, network, sent_view, smooth
from tests.engine import toys
from tests.matrix.toys import QUICK


def test_sdar_weighs_its_critics_as_the_paper_does_where_a_port_has_twice_the_l1() -> None:
    """Vanilla, ResNet on CIFAR-10: l1 = .02 and l2 = 1e-5; .04 is of CIFAR-100 and PlainNet in u-shaped."""
    assert Sdar().l1 == 0.02
    assert Sdar().l2 == 1e-5


def test_a_penalty_on_slope_one_weighs_500_as_in_the_code_of_fsha_where_a_library_has_100() -> None:
    settings: list[dict[str, Any]] = [dict(Fsha.quick), reference_fsha.SLOW]
    assert [(s["slope"], s["penalty"]) for s in settings] == [(1, 500)] * 2
    assert reference_fsha.PENALTY == 500
    recommended = re.findall(r"slope: 1, penalty: (\d+)", inspect.getdoc(Fsha) or "")
    assert recommended == ["500", "500"]  # for clients that move slowly, and of the code itself


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("white-box-inversion", {"tune": False, "steps": 40}),
        ("inverse-network", {"steps": 60}),
        ("deep-prior", {"steps": 100}),
    ],
)
def test_pale_victims_come_back_pale_where_a_code_stretches_its_output_before_the_error_is_taken(
    name: str, settings: dict[str, Any]
) -> None:
    """Stretched by its own extremes, an image or a batch would span all of [0, 1]; auxiliary images nearly do."""
    pale, aux = 0.4 + 0.1 * smooth(6), smooth(200, seed=50)
    assert float(pale.max() - pale.min()) < 0.1
    assert float(aux.max() - aux.min()) > 0.9
    head = network(0, (Centre(), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()))
    images = ATTACKS.build(name, **settings).run(sent_view(pale, [head], [[0]] * 6, aux=aux), gen()).images
    assert images is not None
    assert float(images.max() - images.min()) < 0.3


def test_attackers_know_the_defense_unless_somebody_says_no_where_a_code_leaves_noise_awareness_off() -> None:
    file = {**QUICK, "attack": "white-box-inversion"}
    cells = [Matrix({**file, **told}).cells[0].cell for told in ({}, {"adaptive": True}, {"adaptive": False})]
    assert [cell.adaptive for cell in cells] == [True, True, False]
    session = train(toys.lenet(), toys.data(2), cut="conv2", training=Training(epochs=1, batch_size=8))
    assert session.view(ATTACKS.build("white-box-inversion")).adaptive
    for signature in (Session.view, Trained.view, View):
        assert inspect.signature(signature).parameters["adaptive"].default is True
    assert inspect.signature(attack).parameters["static"].default is False
