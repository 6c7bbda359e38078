# SPDX-License-Identifier: Apache-2.0
"""A training that was killed goes on with every defense to the same bits: weights, releases, and what it states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from splitguard.api import DEFENSES, Labels
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine import toys

TRAINING = Training(epochs=2, batch_size=8, checkpoint_every=1)
FROZEN = Training(epochs=2, batch_size=8, checkpoint_every=1, head="frozen", pretrain_epochs=1)
#: What a defense asks for where it is not labels that are sent; and settings with which it draws, if its own do not.
WHERE: dict[str, dict[str, Any]] = {
    "codebook": {"training": FROZEN},
    "gradient-noise": {"labels": Labels.SERVER},
    "label-dp": {"labels": Labels.SERVER},
    "marvell": {"labels": Labels.SERVER},
    "max-norm": {"labels": Labels.SERVER},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "deeper-cut": {"layers": 1},
    "dp-sgd-head": {"epsilon": 50.0},
    "gaussian": {"epsilon": 50.0},
    "gradient-noise": {"epsilon": 50.0},
    "laplace": {"epsilon": 500.0},
}


PARTS = ("train", "test", "aux", "query")


class Killed(Exception):
    """Stands in for a kill."""


def killed(where: Progress) -> None:
    if where.epoch == 1 and where.done >= 8:  # rows are sent for the second time
        raise Killed


def trained(name: str, **more: Any) -> Session:
    how: dict[str, Any] = {"cut": "conv1", "training": TRAINING, **WHERE.get(name, {}), **more}
    network, data = toys.lenet(), toys.data(2)
    if name == "marvell":  # it is for two classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network[-1] = torch.nn.Linear(16, 2)
        parts = {part: replace(rows := getattr(data, part), labels=rows.labels % 2) for part in PARTS}
        data = replace(data, classes=2, **parts)
    return train(network, data, defense=DEFENSES.build({name: SETTINGS.get(name, {})}), seed=3, **how)


def bits(session: Session) -> dict[str, Any]:
    nets = {f"{name}.{k}": v for name, net in session.defense.modules().items() for k, v in net.state_dict().items()}
    return {**session.split.state_dict(), **session.transcript.state_dict(), **nets}


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_kill_and_resume_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    whole = trained(name)
    with pytest.raises(Killed):
        trained(name, checkpoint=tmp_path / "stop", progress=killed)
    assert (tmp_path / "stop").exists()
    resumed = trained(name, checkpoint=tmp_path / "stop")
    wanted, found = bits(whole), bits(resumed)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(torch.as_tensor(found[k]), torch.as_tensor(wanted[k])) for k in wanted)
    assert (resumed.digest, resumed.guarantees) == (whole.digest, whole.guarantees)
