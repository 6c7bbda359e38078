# SPDX-License-Identifier: Apache-2.0
"""The transcript: victims at every release, gradients per sample, memory in its stated bounds."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import cross_entropy

from splitguard.engine.threat import Mode
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.transcript import Keep, Transcript
from splitguard.engine.wire import Exchange, Phase
from tests.engine import toys


def exchange(step: int, ids: list[int], *, client: int = 0, epoch: int = 0) -> Exchange:
    rows = torch.tensor(ids)
    return Exchange(
        epoch,
        step,
        Phase.TRAINING,
        client,
        rows,
        smashed=rows.float().view(-1, 1) + step,
        cut_grad=torch.ones(len(ids), 1),
    )


def test_every_member_is_released_once_an_epoch_and_every_query_once() -> None:
    data = toys.data(3)
    for mode in (Mode.VANILLA, Mode.SPLITFED):
        session = train(toys.lenet(), data, training=Training(epochs=4, batch_size=8), cut="conv2", mode=mode)
        rows = session.transcript.releases("training")
        assert rows is not None
        ids, counts = rows.ids.unique(return_counts=True)
        assert torch.equal(ids, data.members.sort().values)
        assert (counts == 4).all()
        assert session.releases() == 4
        assert session.releases("query") == 1
        chosen, times = rows.all_of(data.members)
        assert times == 4
        assert torch.equal(chosen.ids, data.members.repeat_interleave(4))
        assert torch.equal(chosen.epoch, torch.arange(4).repeat(len(data.members)))
        assert torch.equal(rows.last(data.members).ids, data.members)


def test_recorded_gradients_are_per_sample() -> None:
    data = toys.data(1)
    settings = Training(epochs=1, batch_size=46, optimizer={"name": "sgd", "lr": 0.0})
    session = train(toys.lenet(dropout=0.0), data, training=settings, cut="conv2")
    rows = session.transcript.releases("training")
    assert rows is not None
    assert rows.cut_grad is not None
    leaf = rows.smashed.clone().requires_grad_()
    cross_entropy(session.split.body(leaf.clone()), data.train.of(rows.ids).labels, reduction="sum").backward()
    torch.testing.assert_close(rows.cut_grad, leaf.grad)


def test_snapshots_are_kept_up_to_the_stated_bytes_the_latest_ones() -> None:
    keep = Keep(torch.tensor([1]), snapshot_bytes=3 * 40)
    transcript = Transcript(keep)
    for step in range(6):
        state = {"head.w": torch.full((10,), float(step))}
        transcript.append(exchange(step, [0, 1]), made_by=(-1, step), head=partial(dict, state))
    rows = transcript.releases("training")
    assert rows is not None
    assert rows.head.tolist() == [-1, -1, -1, 3, 4, 5]
    assert sorted(transcript.snapshots) == [3, 4, 5]
    assert rows.smashed.flatten().tolist() == [1, 2, 3, 4, 5, 6]


def test_context_is_one_client_one_epoch_in_bounded_bytes() -> None:
    keep = Keep(torch.tensor([99]), client=1, epoch=1, context_bytes=200)
    transcript = Transcript(keep)
    for step, (client, epoch) in enumerate([(0, 1), (1, 0), (1, 1), (1, 1), (1, 1), (1, 2)]):
        transcript.append(
            exchange(step, [2 * step, 2 * step + 1], client=client, epoch=epoch), made_by=(0, 0), head=dict
        )
    rows = transcript.releases("context")
    assert rows is not None
    assert rows.ids.tolist() == [4, 5, 6, 7]
    assert transcript.releases("training") is None


def test_state_survives_a_round_trip() -> None:
    transcript = Transcript(Keep(torch.tensor([1, 2])))
    transcript.append(exchange(0, [1, 2, 3]), made_by=(-1, 0), head=lambda: {"head.w": torch.ones(2)})
    transcript.append(exchange(1, [2]), made_by=(-1, 1), head=lambda: {"head.w": torch.zeros(2)})
    twin = Transcript(transcript.keep)
    twin.load_state_dict(transcript.state_dict())
    one, two = transcript.state_dict(), twin.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
