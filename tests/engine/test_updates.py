# SPDX-License-Identifier: Apache-2.0
"""What the fed server is sent: complete, in its bounds, the same after a kill, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.engine.defense import Context, Defense
from splitguard.engine.roles import Attack, Guess
from splitguard.engine.session import Session
from splitguard.engine.threat import Goal, Mode, Party, Sees, Threat
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.updates import Update, UpdateLog
from splitguard.engine.view import View
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from tests.engine import toys
from tests.engine.test_resume import Killed, killer

TAIL: dict[str, Any] = {"mode": Mode.SPLITFED, "cut": ("conv2", "fc1")}


class Reader(Attack):
    """A fed server that reads what it is sent."""

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.UPDATES, (Party.FED_SERVER,))

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


def trained(clients: int = 2, *, how: dict[str, Any] | None = None, **settings: Any) -> Session:
    training = Training(**{"epochs": 2, "batch_size": 8, "average_every": 1, **settings})
    return train(toys.lenet(dropout=0.0), toys.data(clients), training=training, **(how or TAIL))


def sent(session: Session) -> list[Update]:
    return list(session.view(Reader()).updates.sent)


def test_one_update_a_client_and_averaging_with_the_rows_behind_it() -> None:
    session = trained(2)
    updates = sent(session)
    assert [(u.client, u.step) for u in updates] == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert {u.epoch for u in updates} == {0}
    for client in (0, 1):
        own = torch.cat([u.ids for u in updates if u.client == client])
        assert torch.equal(own.sort().values, session.data.clients[client].sort().values)
    assert [u.batches.tolist() for u in updates] == [[8], [8], [8], [8], [7], [7]]
    assert torch.equal(session.view(Reader()).ids.sort().values, session.data.train.ids)


@pytest.mark.parametrize("every", [2, "epoch"])
def test_local_steps_are_told_one_by_one(every: int | str) -> None:
    updates = sent(trained(2, average_every=every))
    batches = [u.batches.tolist() for u in updates if u.client == 0]
    assert batches == ([[8, 8], [7]] if every == 2 else [[8, 8, 7]])


def test_what_comes_back_is_what_the_rows_made_of_what_was_handed_out() -> None:
    """Plain SGD with one step on all rows: the change of the tail, divided by the rate, is autograd's gradient."""
    session = trained(2, batch_size=46, epochs=1, optimizer={"name": "sgd", "lr": 0.1})
    start = toys.lenet(dropout=0.0)
    for update in sent(session):
        rows = session.truth(update.ids)
        loss = cross_entropy(start(rows.inputs), rows.labels)
        gradient = torch.autograd.grad(loss, start.get_parameter("fc2.weight"))[0]
        assert torch.equal(update.before["tail.fc2.weight"], start.state_dict()["fc2.weight"])
        moved = (update.before["tail.fc2.weight"] - update.after["tail.fc2.weight"]) / update.lr
        torch.testing.assert_close(moved, gradient, rtol=0, atol=1e-6)


def test_the_next_start_is_the_average_weighted_by_rows() -> None:
    session = train(
        toys.resnet(),
        toys.data(2, sizes=(30, 16)),
        training=Training(epochs=1, batch_size=16, average_every=1),
        mode=Mode.SPLITFED,
        cut=("block1", "pool"),
    )
    first, second = sent(session)[:2], sent(session)[2:]
    assert [len(u.ids) for u in first] == [16, 16]
    assert [(u.client, len(u.ids)) for u in second] == [(0, 14)]  # client 1 has no rows left
    for name, value in second[0].before.items():
        if value.is_floating_point():
            mean = (first[0].after[name] + first[1].after[name]) / 2
            torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)
    assert "tail.fc.weight" in second[0].before
    assert "head.block1.norm.running_mean" in second[0].before


def test_the_learning_rate_is_the_schedules_and_the_optimizer_is_public() -> None:
    session = trained(
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5},
        schedule={"name": "step", "step_size": 1, "gamma": 0.1},
        context_epoch=1,
    )
    updates = session.view(Reader()).updates
    assert {u.epoch for u in updates.sent} == {1}
    assert [u.lr for u in updates.sent] == pytest.approx([0.01] * 6)
    assert updates.optimizer["name"] == "sgd"
    assert updates.optimizer["momentum"] == 0.5
    assert updates.optimizer["nesterov"] is False
    assert "lr" not in updates.optimizer


def test_the_record_changes_no_bit_and_needs_a_fed_server() -> None:
    """Without splitfed, or with one client, nothing is averaged and the transcript holds what it always held."""
    for how in ({"mode": Mode.VANILLA, "cut": "conv2"}, {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")}):
        session = trained(how=how, average_every="epoch")
        assert not any(k.startswith("update") for k in session.transcript.state_dict())
        with pytest.raises(NotSupported, match="the fed server never sees: updates"):
            session.view(Reader())
    alone = trained(1)
    assert not any(k.startswith("update") for k in alone.transcript.state_dict())
    with pytest.raises(NotSupported, match="with one client, or layers that are not trained, nothing is averaged"):
        alone.view(Reader())


def test_the_server_is_not_shown_updates() -> None:
    class Server(Reader):
        goal: ClassVar[Goal] = Goal.INPUTS
        threat: ClassVar[Threat] = Threat(Sees.SMASHED, uses=Sees.UPDATES)

    with pytest.raises(MissingKnowledge, match="is not granted: updates"):
        _ = trained().view(Server()).updates


def test_a_frozen_head_is_not_sent_and_its_trained_tail_is() -> None:
    session = trained(head="frozen")
    assert all(torch.equal(u.before[k], u.after[k]) for u in sent(session) for k in u.before if k.startswith("head."))
    assert not torch.equal(sent(session)[0].before["tail.fc2.weight"], sent(session)[0].after["tail.fc2.weight"])
    tail = 4 * (16 * 3 + 3)
    smashed, features = 6 * 4 * 4 * 4, 16 * 4
    averagings = 2 * 3  # the end of an epoch averages nothing that the third round of it has not
    assert session.costs["bytes_up"] == 2 * 46 * (smashed + features + 8) + averagings * 2 * tail


def test_a_batch_that_only_probes_the_server_is_not_trained_on() -> None:
    class Probes(Defense):
        """Every batch of client 1 is a probe."""

        def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
            return labels if ctx.client == 1 else None

    assert {u.client for u in sent(trained(2, how={**TAIL, "defense": Probes()}))} == {0}


@pytest.mark.parametrize("how", [TAIL, {"mode": Mode.SPLITFED, "cut": "conv2"}], ids=["tail", "no tail"])
@pytest.mark.parametrize("every", [1, 3, "epoch"])
def test_kill_and_resume_keeps_every_bit(how: dict[str, Any], every: Any, tmp_path: Path) -> None:
    """Epochs of 8 rounds: killed in the first, and twice in the one that is recorded, between two averagings."""
    training = Training(epochs=2, batch_size=3, average_every=every, checkpoint_every=1, context_epoch=1)

    def run(**more: Any) -> Session:
        return train(toys.lenet(), toys.data(2), training=training, **how, **more)

    whole, path = run(), tmp_path / "checkpoint.pt"
    for step in (4, 12, 16):
        with pytest.raises(Killed):
            run(checkpoint=path, progress=killer(step))
    resumed = run(checkpoint=path)
    one, two = whole.transcript.state_dict(), resumed.transcript.state_dict()
    assert one.keys() == two.keys()
    assert any(k.startswith("update/") for k in one)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_saved_session_shows_the_same_updates(tmp_path: Path) -> None:
    session = trained()
    session.save(tmp_path / "session")
    again = Session.load(tmp_path / "session", module=toys.lenet(seed=9, dropout=0.0), data=session.data)
    assert again.view(Reader()).updates.optimizer == session.view(Reader()).updates.optimizer
    for one, two in zip(sent(session), sent(again), strict=True):
        assert (one.client, one.epoch, one.step, one.lr) == (two.client, two.epoch, two.step, two.lr)
        assert torch.equal(one.ids, two.ids)
        assert torch.equal(one.batches, two.batches)
        for state, twin in ((one.before, two.before), (one.after, two.after)):
            assert state.keys() == twin.keys()
            assert all(torch.equal(state[k], twin[k]) for k in state)


def update(client: int, step: int, value: float) -> Update:
    """Four floats of tail and sixteen of head: 16 and 64 bytes."""
    ids = torch.tensor([step])
    return Update(client, 0, step, 0.1, ids, torch.tensor([1]), {}, layers(value))


def layers(value: float) -> dict[str, Tensor]:
    return {"head.w": torch.full((16,), value), "tail.w": torch.full((4,), value)}


def test_memory_is_bounded_tails_before_heads_and_the_first_ones() -> None:
    """An averaging of two clients is three states: 48 bytes of tails, 240 with the heads."""
    log = UpdateLog(epoch=0, limit=600)
    for step in range(12):
        log.begin(0, lambda: layers(-1.0))
        log.end([update(c, step, float(step)) for c in (0, 1)])
    assert [u.step for u in log.sent[::2]] == list(range(8))  # 240 + 7 * 48 = 576; the next would be 624
    assert [sorted(u.after) for u in log.sent[::2]] == [["head.w", "tail.w"]] + [["tail.w"]] * 7
    held = {id(v): v for u in log.sent for state in (u.before, u.after) for v in state.values()}
    assert sum(v.numel() * 4 for v in held.values()) == 576
    twin = UpdateLog(epoch=0, limit=600)
    twin.load_state_dict(log.state_dict())
    for both in (log, twin):
        both.begin(0, lambda: layers(-1.0))
        both.end([update(0, 12, 0.0)])  # one client alone would fit, but none is kept after one that was not
        assert not both.waiting
    one, two = log.state_dict(), twin.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_other_epochs_and_no_room_cost_nothing() -> None:
    def forbidden() -> dict[str, Tensor]:
        raise AssertionError("the layers were copied")

    for log in (UpdateLog(epoch=3, limit=100), UpdateLog(epoch=0, limit=0)):
        log.begin(0, forbidden)
        log.end([])
        assert not log.waiting
        assert not log.sent
    assert UpdateLog(epoch=3, limit=100).state_dict() == {}
    with pytest.raises(BadSetting, match="update_bytes must be at least 0; got -1"):
        UpdateLog(epoch=0, limit=-1)


def test_updates_are_copies() -> None:
    live = nn.Linear(2, 2)
    log = UpdateLog(epoch=0, limit=1000)
    log.begin(0, lambda: {"tail.w": live.weight.detach()})
    log.end([Update(0, 0, 1, 0.1, torch.tensor([0]), torch.tensor([1]), {}, {"tail.w": live.weight.detach()})])
    with torch.no_grad():
        live.weight += 1
    (kept,) = log.sent
    assert torch.equal(kept.before["tail.w"] + 1, live.weight)
    assert torch.equal(kept.after["tail.w"] + 1, live.weight)
