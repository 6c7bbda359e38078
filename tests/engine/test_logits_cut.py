# SPDX-License-Identifier: Apache-2.0
"""A cut after the last layer, on request: what lies behind is the loss alone, and training is the same to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.engine.cut import legal_cuts, split
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadCut, NotSupported
from tests.engine import toys


def weights(session: Session) -> dict[str, Tensor]:
    return {k.split(".", 1)[1]: v for k, v in session.split.state_dict().items()}


@pytest.mark.parametrize("make", [toys.lenet, toys.resnet])
def test_training_is_that_of_any_other_cut(make: Any) -> None:
    data, how = toys.data(2), Training(epochs=2, batch_size=8)
    inner = {toys.lenet: "conv2", toys.resnet: "block2"}[make]
    usual = train(make(), data, training=how, cut=inner, labels=Labels.SERVER)
    two_party = train(make(), data, training=how, cut="logits", labels=Labels.SERVER)
    u_shaped = train(make(), data, training=how, cut=f"{inner}..logits", mode=Mode.U_SHAPED)
    for other in (two_party, u_shaped):
        assert other.cut_shapes[-1] == (3,)
        assert other.accuracy == usual.accuracy
        assert weights(other).keys() == weights(usual).keys()
        assert all(torch.equal(v, weights(usual)[k]) for k, v in weights(other).items())
    assert two_party.costs["server_params"] == two_party.costs["server_flops"] == 0
    assert u_shaped.costs["client_params"] == usual.costs["client_params"]


def test_it_is_never_listed_and_never_a_default() -> None:
    assert "logits" not in [c.name for c in legal_cuts(toys.lenet(), (1, 8, 8))]
    session = train(toys.lenet(), toys.data(1), training=Training(epochs=0), cut="conv1", mode=Mode.U_SHAPED)
    assert session.cuts == ("conv1", "drop2")


def test_a_layer_of_that_name_keeps_it() -> None:
    module = nn.Sequential()
    for name, layer in (("logits", nn.Linear(4, 5)), ("relu", nn.ReLU()), ("out", nn.Linear(5, 2))):
        module.add_module(name, layer)
    assert split(module, "logits").head(torch.zeros(1, 4)).shape == (1, 5)


def test_a_server_without_layers_or_labels_is_refused() -> None:
    with pytest.raises(NotSupported, match="leaves the server neither layers nor labels"):
        train(toys.lenet(), toys.data(1), cut="logits")
    with pytest.raises(BadCut, match="second cut must come after the first; got logits"):
        train(toys.lenet(), toys.data(1), cut="logits..conv1", mode=Mode.U_SHAPED)
    with pytest.raises(BadCut, match="second cut must come after the first"):
        split(toys.lenet(), ("logits", "logits"))
    with pytest.raises(BadCut, match=r"it is the output.*'logits' asks for that"):
        split(toys.lenet(), "fc2")
