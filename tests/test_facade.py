# SPDX-License-Identifier: Apache-2.0
"""The interface of a notebook, as the README shows it."""

from __future__ import annotations

import pytest
import torch

import splitguard as sg
from splitguard.errors import SplitguardError
from tests.engine import toys


def test_the_readme_example() -> None:
    session = sg.train(model="lenet", data="faces", cut="conv1", training={"epochs": 2, "batch_size": 16}, seed=0)
    attack = sg.attack("white-box-inversion", steps=60)
    guess = attack.run(session.view(attack), sg.generator(0))
    score = session.score(guess)
    assert score["ssim"] > score["blind"]
    assert 0 < score["leakage"] <= 1


def test_a_network_and_data_of_ones_own() -> None:
    module = toys.lenet()
    before = module.state_dict()["fc2.weight"].clone()
    session = sg.train(
        model=module, data=toys.data(2), mode="u-shaped", cut=("conv2", "fc1"), training={"epochs": 1}, seed=0
    )
    assert session.labels == "client"
    assert not torch.equal(before, module.state_dict()["fc2.weight"])


def test_score_takes_attack_and_view_together() -> None:
    session = sg.train(data={"name": "faces", "train": 20}, cut="conv1", training={"epochs": 1})
    attack = sg.attack("white-box-inversion", steps=2, tune=False)
    view = session.view(attack)
    guess = attack.run(view, sg.generator(0))
    for given, missing in (({"view": view}, "attack"), ({"attack": attack}, "view")):
        with pytest.raises(ValueError, match=f"together; {missing} is missing"):
            session.score(guess, **given)
    assert session.score(guess, attack=attack, view=view) == session.score(guess)


def test_score_refuses_a_guess_of_nobody_s_view() -> None:
    session = sg.train(data=toys.data(1), cut="conv1", training={"epochs": 1})
    attack = sg.attack("candidate-match")
    guess = attack.run(session.view(attack), sg.generator(0))
    other = sg.train(data=toys.data(1), cut="conv1", training={"epochs": 1})
    with pytest.raises(SplitguardError, match="view"):
        other.score(guess)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mode": "u-shape"}, "Did you mean 'u-shaped'"),
        ({"labels": "sever"}, "Did you mean 'server'"),
        ({"defense": {"gausian": {}}}, "Did you mean 'gaussian'"),
        ({"training": {"epoch": 1}}, "Did you mean 'epochs'"),
        ({"cut": "conv3"}, "Known"),
    ],
)
def test_near_misses(how: dict[str, object], said: str) -> None:
    with pytest.raises(SplitguardError, match=said):
        sg.train(data=toys.data(1), **how)  # type: ignore[arg-type]  # bad values are the point


def test_every_public_name_exists() -> None:
    for name in sg.__all__:
        assert getattr(sg, name) is not None
    with pytest.raises(AttributeError, match="it has"):
        _ = sg.nonsense
