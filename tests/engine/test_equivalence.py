# SPDX-License-Identifier: Apache-2.0
"""Split training equals unsplit training, to the bit; several clients equal what can be worked out by hand."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.engine.cut import legal_cuts, split
from splitguard.engine.fed import FedServer
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine import toys

SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
ADAM = {"name": "adam", "lr": 0.003}


def trained(module: nn.Module, **how: Any) -> dict[str, Tensor]:
    """The parameters and buffers after training, by their names in the whole network."""
    data = how.pop("data", None) or toys.data(1, count=22)
    settings = {"epochs": 3, "batch_size": 8, "optimizer": SGD, **how.pop("training", {})}
    session = train(module, data, training=Training(**settings), **how)
    return {k.split(".", 1)[1]: v for k, v in session.split.state_dict().items()}


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("make", [toys.lenet, toys.resnet])
def test_every_mode_equals_centralized_training_at_every_cut(
    make: Callable[[], nn.Module], optimizer: dict[str, Any]
) -> None:
    settings = {"training": {"optimizer": optimizer}}
    plain = trained(make(), mode=Mode.CENTRALIZED, **copy.deepcopy(settings))
    fresh = dict(make().state_dict())
    assert any(not torch.equal(v, fresh[k]) for k, v in plain.items()), "training must have changed something"
    names = [c.name for c in legal_cuts(make(), (1, 8, 8))]
    for number, name in enumerate(names):
        assert_same(plain, trained(make(), mode=Mode.VANILLA, cut=name, **copy.deepcopy(settings)))
        assert_same(plain, trained(make(), mode=Mode.SPLITFED, cut=name, **copy.deepcopy(settings)))
        for second in names[number + 1 :: 3]:
            cut = (name, second)
            assert_same(plain, trained(make(), mode=Mode.U_SHAPED, cut=cut, **copy.deepcopy(settings)))


def test_dropout_draws_do_not_depend_on_the_cut_but_on_seed_and_step() -> None:
    one = trained(toys.lenet(), cut="conv1", seed=0)
    other = trained(toys.lenet(), cut="conv1", seed=1)
    dry = trained(toys.lenet(dropout=0.0), cut="conv1", seed=0)
    assert not torch.equal(one["fc2.weight"], other["fc2.weight"])
    assert not torch.equal(one["fc2.weight"], dry["fc2.weight"])


def test_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(toys.lenet(), cut="conv2")
    assert torch.equal(before, torch.get_rng_state())


def test_vanilla_with_several_clients_is_centralized_training_on_their_batches_in_rotation() -> None:
    data = toys.data(3)
    module = toys.lenet(dropout=0.0)
    split = trained(module, data=data, cut="conv2")
    # The same batches, in the same order, on the whole network.
    from splitguard.engine.modes import rounds
    from splitguard.seeding import generator

    twin = toys.lenet(dropout=0.0)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        batches = [
            torch.randperm(len(ids), generator=generator(0, "order", epoch, c)).split(8)
            for c, ids in enumerate(data.clients)
        ]
        for [(client, positions)] in rounds(Mode.VANILLA, "batch", batches):
            rows = data.train.of(data.clients[client])[positions]
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(rows.inputs), rows.labels).backward()
            optimizer.step()
    for name, value in twin.state_dict().items():
        assert torch.equal(value, split[name]), name


def test_splitfed_averaging_each_round_equals_centralized_sgd_on_the_pooled_batch() -> None:
    data = toys.data(3, sizes=(20, 15, 11))
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 5,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "average_every": 1,
        "precision": "float64",
    }
    session = train(
        toys.lenet(dropout=0.0), data, mode=Mode.SPLITFED, cut="conv2", training=Training(**settings), seed=3
    )
    from splitguard.engine.modes import rounds
    from splitguard.seeding import generator

    twin = toys.lenet(dropout=0.0).double()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for epoch in range(2):
        batches = [
            torch.randperm(len(ids), generator=generator(3, "order", epoch, c)).split(5)
            for c, ids in enumerate(data.clients)
        ]
        for group in rounds(Mode.SPLITFED, "batch", batches):
            parts = [data.train.of(data.clients[c])[p] for c, p in group]
            inputs = torch.cat([p.inputs for p in parts]).double()
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(inputs), torch.cat([p.labels for p in parts])).backward()
            optimizer.step()
    got = {k.split(".", 1)[1]: v for k, v in session.split.state_dict().items()}
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6)


def test_fedavg_equals_the_hand_computation_on_unequal_clients_buffers_included() -> None:
    data = toys.data(2, sizes=(30, 16))
    base = toys.resnet()
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}}
    heads: list[dict[str, Tensor]] = []
    honest = FedServer.average

    def spying(self: FedServer) -> None:
        heads.extend(copy.deepcopy(dict(c.head.module.state_dict())) for c in self._clients)
        assert self.seen == [30, 16]
        honest(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FedServer, "average", spying)
        session = train(base, data, mode=Mode.SPLITFED, cut="block2", training=Training(**settings))
    assert any("running_mean" in k for k in heads[0])
    assert not torch.equal(heads[0]["stem.weight"], heads[1]["stem.weight"])
    for name, value in session.split.head.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, heads[0][name] * 30 / 46 + heads[1][name] * 16 / 46)
        else:
            assert value == max(heads[0][name], heads[1][name])


def test_u_shaped_labels_never_leave_and_server_labels_are_never_sent() -> None:
    seen: dict[str, list[Any]] = {}

    def bytes_up(**how: Any) -> float:
        session = train(
            toys.lenet(), toys.data(1), training=Training(epochs=1, batch_size=8), cut=how.pop("cut", "conv2"), **how
        )
        seen[str(session.labels)] = [session.transcript.releases("training")]
        return session.costs["bytes_up"]

    sent = bytes_up()
    server = bytes_up(labels=Labels.SERVER)
    bytes_up(mode=Mode.U_SHAPED, cut=("conv2", "fc1"))
    assert sent - server == 46 * 8  # one int64 label a row
    assert seen["client"][0].labels is None
    assert seen["sent"][0].labels is not None


def test_bytes_are_those_of_the_tensors_that_cross() -> None:
    session = train(
        toys.lenet(), toys.data(1), training=Training(epochs=2, batch_size=8), cut=("conv2", "fc1"), mode=Mode.U_SHAPED
    )
    smashed, features = 6 * 4 * 4 * 4, 16 * 4
    assert session.costs["bytes_up"] == 2 * 46 * (smashed + features + 8)
    assert session.costs["bytes_down"] == 2 * 46 * (smashed + features)
    assert session.costs["bytes_handover"] == 0


def test_frozen_head_does_not_move_and_no_gradient_comes_down() -> None:
    session = train(toys.resnet(), toys.data(2), training=Training(epochs=2, batch_size=8, head="frozen"), cut="block2")
    releases = session.transcript.releases("training")
    assert releases is not None
    assert releases.cut_grad is None
    assert session.costs["bytes_down"] == 0
    assert len(set(releases.head.tolist())) == 1
    snapshot = session.transcript.snapshots[int(releases.head[0])]
    for name, value in session.split.head.state_dict().items():
        assert torch.equal(value, snapshot[f"head.{name}"])
    assert session.aux_accuracy is not None


def test_a_head_that_is_not_pretrained_is_the_random_one_it_was() -> None:
    model, data = toys.lenet(), toys.data(2)
    before = {name: value.clone() for name, value in split(model, ("conv2",)).head.state_dict().items()}
    session = train(
        model, data, training=Training(epochs=1, batch_size=8, head="frozen", pretrain_epochs=0), cut="conv2"
    )
    after = session.split.head.state_dict()
    assert before
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert session.aux_accuracy is None


def test_members_are_never_augmented() -> None:
    how = Training(epochs=1, batch_size=46, augment={"flip": True, "crop": 2}, optimizer={"name": "sgd", "lr": 0.0})
    data = toys.data(1)
    plain = train(toys.lenet(), data, training=dataclasses.replace(how, augment=None), cut="conv1")
    moved = train(toys.lenet(), data, training=how, cut="conv1")
    one, two = plain.transcript.releases("training"), moved.transcript.releases("training")
    assert one is not None
    assert two is not None
    torch.testing.assert_close(one.last(data.members).smashed, two.last(data.members).smashed, rtol=0, atol=1e-6)
    assert plain.history[0]["loss"] != moved.history[0]["loss"]
