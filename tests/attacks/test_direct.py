# SPDX-License-Identifier: Apache-2.0
"""With the cut at the logits the gradient is the label: in two-party sums by hand, and through real training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from splitguard.api import ATTACKS, Defense, Guess, Labels, Mode, NotSupported, Party, Profile, View
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.attacks.views import gen, label_view
from tests.engine import toys


def guessed(view: View) -> Guess:
    return ATTACKS.build("direct").run(view, gen())


@settings(max_examples=30)
@given(classes=st.integers(2, 20), parties=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_sum_of_logits_gives_every_label(classes: int, parties: int, seed: int) -> None:
    """Each party has a model down to logits, the label party adds them up: every party gets the same gradient back."""
    draws = gen(seed)
    labels = torch.randint(classes, (16,), generator=draws)
    own = [torch.randn(16, classes, generator=draws).mul(2).requires_grad_() for _ in range(parties)]
    F.cross_entropy(sum(own[1:], own[0]), labels, reduction="sum").backward()
    gradient = own[0].grad
    assert gradient is not None
    for party in (Party.CLIENT, Party.SERVER):
        guess = guessed(label_view(gradient, labels, [], classes, party=party))
        assert guess.labels is not None
        assert torch.equal(guess.labels, labels)
        assert guess.settings["one_negative"] == 1


DEPLOYMENTS: list[tuple[dict[str, Any], Party]] = [
    ({"cut": "logits", "labels": Labels.SERVER}, Party.CLIENT),
    ({"cut": ("conv2", "logits"), "mode": Mode.U_SHAPED}, Party.SERVER),
    ({"cut": ("conv2", "logits"), "mode": Mode.SPLITFED}, Party.SERVER),
]


@pytest.mark.parametrize(("how", "party"), DEPLOYMENTS, ids=["two-party", "u-shaped", "splitfed"])
def test_every_label_in_real_training(how: dict[str, Any], party: Party) -> None:
    data = toys.data(2)
    for epoch in (0, 2):
        training = Training(epochs=3, batch_size=8, context_epoch=epoch)
        session = train(toys.lenet(), data, training=training, **how)
        view = session.view(ATTACKS.build("direct"), profile=Profile.BLACK_BOX)
        assert view.party is party
        guess = guessed(view)
        assert guess.labels is not None
        assert len(guess.labels) == 23 - 3  # client 0's rows, less the one a class that label attacks know
        assert torch.equal(guess.labels, session.truth(view.ids).labels)
        assert guess.settings["one_negative"] == 1


def test_noise_on_the_gradient_is_seen_in_the_guess() -> None:
    class Noisy(Defense):
        def on_return(self, grad: Tensor, labels: Tensor, ctx: Any, generator: torch.Generator) -> Tensor:
            return grad + torch.randn(grad.shape, generator=generator)

    how, party = DEPLOYMENTS[1]
    session = train(toys.lenet(), toys.data(2), training=Training(epochs=1, batch_size=8), defense=Noisy(), **how)
    view = session.view(ATTACKS.build("direct"))
    guess = guessed(view)
    assert view.party is party
    assert guess.labels is not None
    assert not torch.equal(guess.labels, session.truth(view.ids).labels)
    assert float(guess.settings["one_negative"]) < 0.9


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cut": "conv2", "labels": Labels.SERVER}, "the cut conv2 the gradient has 96 entries a row"),
        ({"cut": ("conv2", "fc1"), "mode": Mode.U_SHAPED}, "the cut fc1 the gradient has 16 entries a row"),
    ],
)
def test_layers_above_the_cut_are_refused_by_name(how: dict[str, Any], message: str) -> None:
    session = train(toys.lenet(), toys.data(2), training=Training(epochs=1, batch_size=8), **how)
    with pytest.raises(NotSupported, match=f"{message}.*or cut at logits"):
        guessed(session.view(ATTACKS.build("direct")))
