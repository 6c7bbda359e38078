# SPDX-License-Identifier: Apache-2.0
"""Where a finished session is attacked: what an attack computes with follows the device, what indexes does not.

The device "meta" stands for an accelerator: it holds shapes alone, is on every machine, and refuses to be mixed.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitguard.api import ATTACKS, View
from splitguard.engine.device import on_device
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode, Profile, Sees
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine import toys

META = torch.device("meta")


@pytest.fixture(scope="module")
def session() -> Session:
    quick = Training(epochs=1, batch_size=8)
    return train(toys.lenet(), toys.data(), cut="conv2", labels=Labels.SENT, mode=Mode.VANILLA, training=quick)


def view_of(session: Session, name: str = "white-box-inversion") -> View:
    return session.view(ATTACKS.build(name), profile=Profile.ACTIVE)


def test_in_main_memory_it_is_the_same_view(session: Session) -> None:
    view = view_of(session)
    assert on_device(view, torch.device("cpu")) is view


def test_what_is_computed_with_moves_and_what_indexes_stays(session: Session) -> None:
    here = view_of(session)
    there = on_device(here, META)
    rows = there.releases
    assert {rows.smashed.device, there.aux.inputs.device, there.aux.labels.device} == {META}
    cpu = torch.device("cpu")
    assert {there.ids.device, rows.ids.device, rows.head.device, rows.epoch.device, there.aux.ids.device} == {cpu}
    assert rows.smashed.shape == here.releases.smashed.shape
    assert rows.last(there.ids).smashed.device == META
    assert here.releases.smashed.device == cpu


def test_networks_are_handed_out_on_the_device_and_the_sessions_own_stay(session: Session) -> None:
    def devices(network: nn.Module) -> set[torch.device]:
        return {value.device for value in network.state_dict().values()}

    there = on_device(view_of(session), META)
    assert devices(there.head()) == {META}
    assert {v.device for v in there.head_states(torch.zeros(2, dtype=torch.int64)).values()} == {META}
    shadow = on_device(view_of(session, "query-free"), META)
    assert devices(shadow.blank_head(torch.Generator())) == devices(shadow.body()) == {META}
    assert devices(session.split) == {torch.device("cpu")}


def test_the_pipeline_answers_on_the_device(session: Session) -> None:
    there = on_device(view_of(session, "inverse-network"), META)
    answer = there.query(there.aux.inputs[:3], torch.Generator())
    assert (answer.device, tuple(answer.shape)) == (META, (3, *there.cut_shapes[0]))


def test_what_is_read_of_the_moved_view_counts_and_what_is_not_granted_stays_closed(session: Session) -> None:
    here = view_of(session, "inverse-network")
    there = on_device(here, META)
    assert there.aux is not None
    assert Sees.AUX in here.asked
    assert there.granted == here.granted


@pytest.mark.parametrize(
    ("asked", "found", "used"),
    [
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
        ("cpu", True, "cpu"),
        ("auto", False, "cpu"),
        ("cuda", False, "cpu"),
    ],
)
def test_a_session_is_attacked_where_it_was_to_train_if_that_is_there(
    monkeypatch: pytest.MonkeyPatch, asked: str, found: bool, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    assert Training(device=asked).attack_device() == torch.device(used)  # type: ignore[arg-type]


def test_a_view_is_made_on_that_device(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "attack_device", lambda self: META)
    assert view_of(session).releases.smashed.device == META
