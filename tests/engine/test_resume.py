# SPDX-License-Identifier: Apache-2.0
"""Kill and resume equals the uninterrupted training, bit for bit; what is saved is what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from splitguard.engine import checkpoint
from splitguard.engine.loop import Loop, Progress
from splitguard.engine.session import Session
from splitguard.engine.stored import Stored
from splitguard.engine.threat import Goal, Mode, Profile, Sees, Threat
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange
from splitguard.errors import BadSetting, Diverged
from tests.engine import toys
from tests.engine.test_seats import Hijacker, Watcher, reader

MODES: list[dict[str, Any]] = [
    {"mode": Mode.VANILLA, "cut": "conv2"},
    {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")},
    {"mode": Mode.SPLITFED, "cut": "conv2"},
    {"mode": Mode.CENTRALIZED, "cut": "conv2"},
]
TRAINING = Training(
    epochs=3,
    batch_size=8,
    optimizer={"name": "adam", "lr": 0.003},
    schedule={"name": "cosine"},
    checkpoint_every=1,
    augment={"flip": True},
)


class Killed(Exception):
    """Stands in for a kill."""


def killer(step: int) -> Any:
    def progress(where: Progress) -> None:
        if where.done >= step:
            raise Killed

    return progress


def everything(session: Session) -> dict[str, torch.Tensor]:
    return {**session.split.state_dict(), **session.transcript.state_dict()}


@pytest.mark.parametrize("how", MODES, ids=lambda how: str(how["mode"]))
@pytest.mark.parametrize("step", [3, 7])
def test_kill_and_resume_equals_uninterrupted(how: dict[str, Any], step: int, tmp_path: Path) -> None:
    data = toys.data(2)
    watched = how["mode"] is not Mode.CENTRALIZED
    whole_watcher, cut_watcher, resumed_watcher = Watcher(), Watcher(), Watcher()
    whole = train(toys.lenet(), data, training=TRAINING, beside=[whole_watcher] * watched, **how)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        train(
            toys.lenet(),
            data,
            training=TRAINING,
            checkpoint=path,
            progress=killer(step),
            beside=[cut_watcher] * watched,
            **how,
        )
    assert path.exists()
    steps: list[int] = []
    resumed = train(
        toys.lenet(seed=7),
        data,
        training=TRAINING,
        checkpoint=path,
        progress=lambda p: steps.append(p.done),
        beside=[resumed_watcher] * watched,
        **how,
    )
    assert min(steps) >= step
    assert whole.digest == resumed.digest
    assert whole.accuracy == resumed.accuracy
    assert whole.history == resumed.history
    assert whole_watcher.sums == resumed_watcher.sums
    for name, value in everything(whole).items():
        assert torch.equal(value, everything(resumed)[name]), name
    seconds = {"train_seconds"}
    assert {k: v for k, v in whole.costs.items() if k not in seconds} == {
        k: v for k, v in resumed.costs.items() if k not in seconds
    }


class Heavy(Hijacker):
    """Weighs the gradient with the server's layers, as its copy of them stands."""

    goal = Goal.INPUTS
    threat = Threat(Sees.SMASHED | Sees.BODY, active=True)

    def start(self, view: View, generator: torch.Generator) -> None:
        self.view = view

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        return honest * sum(p.abs().mean() for p in self.view.body().parameters())


def test_after_a_resume_an_attack_in_the_servers_seat_has_the_body_as_it_was_left(tmp_path: Path) -> None:
    def run(seed: int = 0, **more: Any) -> Session:
        return train(toys.lenet(seed), toys.data(2), training=TRAINING, cut="conv2", active=Heavy(), **more)

    whole, path = run(), tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        run(checkpoint=path, progress=killer(8))
    assert run(seed=7, checkpoint=path).digest == whole.digest


def test_what_the_server_kept_comes_back_on_the_device_of_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Training(epochs=2, batch_size=8, head="frozen", pretrain_epochs=0, release="once", checkpoint_every=1)
    path = tmp_path / "checkpoint.pt"
    devices: list[str] = []

    def run(**more: Any) -> None:
        train(toys.lenet(), toys.data(1), training=once, cut="conv2", checkpoint=path, **more)

    def load(path: Path, loop: Loop) -> None:
        loop.around.device = torch.device("meta")
        checkpoint.load_checkpoint(path, loop)

    def noted(stored: Stored, state: dict[str, Tensor]) -> None:
        devices.extend(state[name].device.type for name in ("smashed", "labels"))
        raise Killed

    with pytest.raises(Killed):
        run(progress=killer(8))
    monkeypatch.setattr("splitguard.engine.loop.load_checkpoint", load)
    monkeypatch.setattr(Stored, "load_state_dict", noted)
    with pytest.raises(Killed):
        run()
    assert devices == ["meta", "meta"]


def test_a_checkpoint_of_another_session_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train(toys.lenet(), toys.data(1), training=Training(epochs=1), cut="conv2", checkpoint=path)
    with pytest.raises(BadSetting, match="another path, or delete it"):
        train(toys.lenet(), toys.data(1), training=Training(epochs=1), cut="conv2", checkpoint=path, seed=1)
    attacks: dict[str, Any] = {"beside": [Watcher()], "profile": Profile.ACTIVE}
    train(toys.lenet(), toys.data(1), training=Training(epochs=1), cut="conv2", checkpoint=tmp_path / "two", **attacks)
    with pytest.raises(BadSetting, match="another path, or delete it"):
        train(
            toys.lenet(),
            toys.data(1),
            training=Training(epochs=1),
            cut="conv2",
            checkpoint=tmp_path / "two",
            adaptive=False,
            **attacks,
        )
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BadSetting, match="not a checkpoint that can be read"):
        train(toys.lenet(), toys.data(1), training=Training(epochs=1), cut="conv2", checkpoint=path)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("how", MODES[:3], ids=lambda how: str(how["mode"]))
def test_a_saved_session_gives_the_same_view_in_another_process(
    how: dict[str, Any], precision: Literal["float32", "float64"], tmp_path: Path
) -> None:
    data = toys.data(2)
    session = train(toys.lenet(), data, training=Training(epochs=2, batch_size=8, precision=precision), **how)
    session.save(tmp_path / "session")
    again = Session.load(tmp_path / "session", module=toys.lenet(seed=9), data=data)
    assert again.results() == session.results()
    attack = reader(Sees.SMASHED | Sees.HEAD | Sees.CANDIDATES)
    for phase in ("training", "query"):
        one, two = session.view(attack, phase=phase), again.view(attack, phase=phase)
        assert torch.equal(one.releases.smashed, two.releases.smashed)
        assert torch.equal(one.candidates, two.candidates)
        assert torch.equal(one.head()(one.aux.inputs), two.head()(two.aux.inputs))
        assert torch.equal(one.candidates[session.choices(one)], session.truth(one.ids).inputs)
    with pytest.raises(BadSetting, match="another draw of the data"):
        Session.load(tmp_path / "session", module=toys.lenet(), data=toys.data(2, seed=1))


def test_a_loss_that_is_not_a_number_ends_the_session_by_name() -> None:
    with pytest.raises(Diverged, match="not a finite number"):
        train(
            toys.lenet(), toys.data(1), training=Training(epochs=3, optimizer={"name": "sgd", "lr": 1e12}), cut="conv2"
        )
