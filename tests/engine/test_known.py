# SPDX-License-Identifier: Apache-2.0
"""How many labels an attacker of labels is told: that it moves nothing else, and that attacks make use of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from splitguard.api import ATTACKS, View
from splitguard.data import DataSpec
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge
from tests.engine import toys

#: Label attacks with anchors, and settings with which each takes well under a second.
ANCHORED: dict[str, dict[str, Any]] = {
    "gradient-norm": {},
    "gradient-cosine": {},
    "gradient-spectral": {},
    "similarity": {},
    "similarity-smashed": {"method": "anchors"},
    "model-completion": {"labelled": 1, "steps": 5},
}


@pytest.fixture(scope="module")
def session() -> Session:
    """The label party sits above the cut; client 0 attacks the labels of its own rows."""
    quick = Training(epochs=2, batch_size=8)
    return train(toys.lenet(), toys.data(2, count=60), cut="conv2", labels=Labels.SERVER, training=quick)


def view_of(session: Session, known: int | None = None, name: str = "gradient-norm") -> View:
    return session.view(ATTACKS.build(name, **ANCHORED[name]), known=known)


def ids(values: torch.Tensor) -> set[int]:
    return set(values.tolist())


def test_more_known_rows_are_the_same_ones_and_more_and_no_other_victim_goes_or_comes(session: Session) -> None:
    held = session.data.clients[0]
    labels = session.truth(held).labels
    least: set[int] = set()
    for count in (0, 1, 2, 3, 100):
        view = view_of(session, count)
        known = ids(view.known.ids)
        assert known >= least
        assert ids(view.ids) == ids(held) - known
        assert view.ids.tolist() == sorted(view.ids.tolist())
        assert torch.equal(view.known.labels, session.truth(view.known.ids).labels)
        wanted = torch.bincount(labels, minlength=3).clamp(max=count)
        assert torch.equal(torch.bincount(view.known.labels, minlength=3), wanted)
        least = known
    assert least == ids(held)


def test_the_data_say_how_many_unless_the_view_does(session: Session) -> None:
    assert len(view_of(session).known.ids) == 3
    more = replace(session, data=replace(session.data, known=4))
    assert torch.equal(view_of(more).known.ids, view_of(session, 4).known.ids)
    assert torch.equal(view_of(more, 1).known.ids, view_of(session).known.ids)


def test_victims_of_other_goals_do_not_hear_of_it(session: Session) -> None:
    attack = ATTACKS.build("white-box-inversion")
    one, many = (session.view(attack, known=count) for count in (1, 9))
    assert torch.equal(one.ids, many.ids)
    assert torch.equal(one.releases.smashed, many.releases.smashed)


@pytest.mark.parametrize("name", ANCHORED)
def test_every_anchor_counts(session: Session, name: str) -> None:
    """The first known row of each class is told right; where the other two are told wrong, scores change."""
    attack = ATTACKS.build(name, **ANCHORED[name])
    view = view_of(session, 3, name)
    moved = torch.where(torch.arange(9) % 3 == 0, view.known.labels, (view.known.labels + 1) % 3)
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    told = attack.run(view, draws[0]).scores
    misled = attack.run(replace(view, _known=replace(view.known, labels=moved)), draws[1]).scores
    assert told is not None
    assert misled is not None
    assert told.shape == (len(view.ids), 3)
    assert not torch.allclose(told, misled)


def test_the_anchor_of_gradient_norm_is_the_mean_log_length_of_all_that_are_known(session: Session) -> None:
    view = view_of(session, 3)
    lengths = {int(i): float(view.label_grad(view.context.last(i[None])).norm().log()) for i in view.context.ids}
    scores = ATTACKS.build("gradient-norm").run(view, torch.Generator()).scores
    assert scores is not None
    for k in range(3):
        own = [lengths[int(i)] for i, y in zip(view.known.ids, view.known.labels, strict=True) if int(y) == k]
        assert len(own) == 3
        wanted = [-abs(lengths[int(i)] - sum(own) / 3) for i in view.ids]
        assert torch.allclose(scores[:, k], torch.tensor(wanted, dtype=scores.dtype), atol=1e-5)


def test_without_any_label_an_attack_that_needs_one_says_so(session: Session) -> None:
    with pytest.raises(MissingKnowledge, match="no row whose label is known"):
        ATTACKS.build("gradient-norm").run(view_of(session, 0), torch.Generator())


def test_the_entry_reads_it_writes_it_only_where_it_is_not_one_and_draws_the_same_rows() -> None:
    plain, more = DataSpec.parse("faces"), DataSpec.parse({"name": "faces", "known": 5})
    assert "known" not in plain.as_dict()
    assert plain == DataSpec.parse("faces", known=1)
    assert more.as_dict() == {**plain.as_dict(), "known": 5}
    assert DataSpec.parse(more.as_dict()) == more
    assert more.resolve().known == 5
    one, five = plain.draw(3), more.draw(3)
    assert (one.known, five.known) == (1, 5)
    assert one.digest == five.digest
    assert torch.equal(one.members, five.members)
    for wrong in (-1, 1.5, True):
        with pytest.raises(BadSetting, match="known must be a whole number of 0 or more"):
            DataSpec.parse("faces", known=wrong)
    with pytest.raises(BadSetting, match="known must be a whole number of 0 or more"):
        replace(toys.data(), known=-1)
