# SPDX-License-Identifier: Apache-2.0
"""Names are resolved before anything runs, and every training is planned once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from splitguard.matrix import Cell, Matrix, MatrixError
from splitguard.matrix.estimate import SCORING
from tests.matrix.toys import QUICK

NOISE = {**QUICK, "attack": "toy-noise"}
GAUSSIAN = {"gaussian": {"epsilon": 8}}


def cells(**more: Any) -> list[Cell]:
    return [r.cell for r in Matrix({**NOISE, **more}).cells]


def sessions(found: Iterable[Cell]) -> int:
    return len({cell.session_key() for cell in found})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attack": "toy-nois"}, "matrix, attack: unknown attack 'toy-nois'. Did you mean 'toy-noise'"),
        ({"attack": [{"toy-noise": {"scal": 1}}]}, "attack[0].toy-noise.scal: unknown setting of the attack"),
        (
            {"attack": {"toy-noise": {"scale": "x"}}},
            "attack.toy-noise.scale: attack 'toy-noise': setting 'scale' got 'x'",
        ),
        (
            {"defense": ["none", {"gausian": {}}]},
            "defense[1].gausian: unknown defense 'gausian'. Did you mean 'gaussian'",
        ),
        ({"defense": {"gaussian": {"epsilon": [8, -1]}}}, "defense.gaussian"),
        ({"defense": [["nopeek", "nopek"]]}, "defense[0][1]: unknown defense 'nopek'. Did you mean 'nopeek'"),
        ({"model": "lenett"}, "matrix, model: unknown model 'lenett'. Did you mean 'lenet'"),
        ({"data": "facs"}, "matrix, data: unknown data set 'facs'. Did you mean 'faces'"),
        ({"data": {"name": "faces", "clints": 2}}, "matrix, data.clints: unknown setting"),
        ({"data": {"name": "faces", "train": 5000}}, "matrix, data"),
        ({"mode": "vanila"}, "matrix, mode: unknown mode 'vanila'. Did you mean 'vanilla'"),
        ({"mode": {"vanilla": {"labels": "sever"}}}, "matrix, mode.vanilla.labels: unknown 'labels' owner 'sever'"),
        ({"cut": ["conv1", "conv9"]}, "matrix, cut[1]: unknown cut 'conv9'. Did you mean"),
        ({"cut": "conv1..fc9"}, "matrix, cut: unknown cut 'fc9'"),
        ({"profile": "head-knwn"}, "matrix, profile: unknown profile 'head-knwn'. Did you mean 'head-known'"),
        ({"train": {"epoch": 3}}, "matrix, train.epoch: unknown train setting 'epoch'. Did you mean 'epochs'"),
        ({"train": {"optimizer": {"name": "sgdd"}}}, "matrix, train.optimizer.name: unknown optimizer 'sgdd'"),
    ],
)
def test_a_name_that_does_not_exist_is_said_before_anything_runs(more: dict[str, Any], message: str) -> None:
    with pytest.raises(MatrixError) as error:
        Matrix({**NOISE, **more})
    assert message in str(error.value)


def test_the_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "data: faces\nmodel: lenet\ncut: conv1\nattack:\n  - white-box-inversion\n  - toy-noise: {scal: 1}\n"
    )
    with pytest.raises(MatrixError, match=r"^m\.yaml, line 6, attack\[1\]\.toy-noise\.scal: .*Did you mean 'scale'"):
        Matrix.from_file(file)


def test_what_is_missing_is_said_with_an_example() -> None:
    with pytest.raises(MatrixError) as error:
        Matrix({"model": "lenet"})
    assert "matrix: needs the key 'data', as in data: faces" in error.value.problems
    assert "matrix: needs the key 'attack', as in attack: [white-box-inversion]" in error.value.problems


def test_every_list_is_an_axis() -> None:
    found = cells(
        mode=["vanilla", {"vanilla": {"labels": ["server"]}}],
        cut=["conv1", "conv2"],
        defense=["none", {"gaussian": {"epsilon": [8, 200], "phases": ["training"]}}],
        attack={"toy-noise": {"scale": [1, 2, 3]}},
        train={"epochs": [1, 2]},
        seeds=[0, 1],
    )
    assert len(found) == 2 * 2 * 3 * 3 * 2 * 2 == len({c.key() for c in found})
    assert {c.labels for c in found} == {"sent", "server"}
    assert {d.settings["epsilon"] for c in found for d in c.defense} == {8.0, 200.0}
    assert all(d.settings["phases"] == ["training"] for c in found for d in c.defense)


def test_blocks_are_united_and_what_they_share_is_one_cell() -> None:
    both = cells(blocks=[{"cut": ["conv1", "conv2"]}, {"cut": "conv1", "train": {"head": ["trained", "frozen"]}}])
    assert [(c.cuts, c.training["head"]) for c in both] == [
        (("conv1",), "trained"),
        (("conv2",), "trained"),
        (("conv1",), "frozen"),
    ]
    assert all(c.training["epochs"] == 1 for c in both)  # laid over, not replaced


def test_a_list_is_a_composition_without_none() -> None:
    (cell,) = cells(defense=[["none", {"nopeek": {"weight": 0.25}}, GAUSSIAN]])
    assert [d.name for d in cell.defense] == ["nopeek", "gaussian"]
    assert cell.defended() == "nopeek(weight=0.25) + gaussian(epsilon=8)"


def test_settings_without_effect_do_not_make_another_training() -> None:
    found = cells(train=[{"epochs": 1}, {"epochs": 1, "pretrain_epochs": 3}])
    assert len(found) == 1


def test_u_shaped_takes_the_second_cut_before_the_last_layer() -> None:
    (cell,) = cells(mode="u-shaped")
    assert cell.labels == "client"
    assert len(cell.cuts) == 2
    (explicit,) = cells(mode="u-shaped", cut="..".join(cell.cuts))
    assert explicit.key() == cell.key()


def test_a_combination_that_does_not_exist_is_refused_with_the_reason() -> None:
    matrix = Matrix({**NOISE, "defense": ["none", {"deeper-cut": {"layers": [1, 99]}}]})
    assert [r.reason is None for r in matrix.cells] == [True, True, False]
    assert "deeper-cut: 99 further than conv1" in str(matrix.cells[2].reason)
    assert not matrix.cells[2].deployable


def test_an_attack_beyond_the_profile_or_after_what_is_given_is_refused() -> None:
    matrix = Matrix({**NOISE, "attack": ["toy-needs-head", "toy-labels"], "profile": "black-box"})
    head, labels = matrix.cells
    assert head.reason == "it needs the profile head-known; the strongest considered here is black-box"
    assert "is given the labels" in str(labels.reason)
    assert "1 x toy-labels" in str(matrix.plan())


def test_passive_attacks_share_one_training_and_active_ones_do_not() -> None:
    plan = Matrix({**NOISE, "attack": ["toy-noise", "toy-needs-head", "toy-shrinks"], "profile": "active"}).plan()
    assert plan.as_dict()["trainings"] == {"total": 2, "honest": 1, "active": 1, "replays": 0, "twins_added": 0}
    assert plan.as_dict()["attacks"] == 6
    assert "trainings  2 = 1 honest + 1 active + 0 replays" in str(plan)


def test_a_moved_cut_shares_the_training_of_the_plain_cut_there() -> None:
    found = cells(cut=["conv1", "pool1"], defense=["none", "deeper-cut"])
    moved = next(c for c in found if c.base == ("conv1",) and c.defense)
    plain = next(c for c in found if c.base == ("pool1",) and not c.defense)
    assert moved.cuts == plain.cuts == ("pool1",)
    assert moved.session_key() == plain.session_key()
    assert sessions(found) == 3  # conv1, pool1, and what lies one further


def test_the_undefended_twin_is_trained_although_nobody_asked() -> None:
    plan = Matrix({**NOISE, "defense": GAUSSIAN}).plan()
    assert plan.as_dict()["trainings"] == {"total": 2, "honest": 2, "active": 0, "replays": 0, "twins_added": 1}
    assert [t.cell.defense for t in plan.trainings if t.twin_only] == [()]
    assert "1 that no cell attacks" in str(plan)
    frozen = Matrix({**NOISE, "train": {"head": "frozen"}}).plan()
    assert [t.cell.training["head"] for t in frozen.trainings] == ["frozen", "trained"]


def test_watching_attacks_ride_on_the_honest_training_one_profile_at_a_time() -> None:
    matrix = Matrix({**NOISE, "attack": ["toy-noise", "toy-watches", {"toy-watches": {"breaks_at": 99}}]})
    (training,) = matrix.plan().trainings
    assert [str(rider.attack) for rider in training.riders] == ["toy-watches", "toy-watches(breaks_at=99)"]
    two = Matrix({**NOISE, "attack": "toy-watches", "profile": ["black-box", "head-known"]}).plan()
    assert [(len(t.riders), t.replay) for t in two.trainings] == [(1, False), (1, True)]


def test_a_training_is_watched_by_one_adversary() -> None:
    for axis in ({"adaptive": [True, False]}, {"data": [{**NOISE["data"], "known": k} for k in (1, 2)]}):
        plan = Matrix({**NOISE, "attack": "toy-watches", **axis}).plan()
        assert [(len(t.riders), t.replay) for t in plan.trainings] == [(1, False), (1, True)]
        assert plan.trainings[0].riders != plan.trainings[1].riders


def test_each_cell_of_an_active_attack_is_trained_also_where_deployments_coincide() -> None:
    moved = {"cut": ["conv1", "pool1"], "defense": ["none", "deeper-cut"], "attack": "toy-shrinks", "profile": "active"}
    told = {"data": [{**NOISE["data"], "known": k} for k in (1, 2)], "attack": "toy-shrinks", "profile": "active"}
    for axes in (moved, told):
        matrix = Matrix({**NOISE, **axes})
        plan = matrix.plan()
        assert sum(bool(t.riders) for t in plan.trainings) == sum(c.reason is None for c in matrix.cells) > 1
        assert not plan.attacks


def test_centralized_is_one_baseline_whatever_it_is_crossed_with() -> None:
    matrix = Matrix({**NOISE, "mode": ["centralized"], "cut": ["conv1", "conv2"], "defense": ["none", GAUSSIAN]})
    plain, defended = matrix.cells
    assert plain.deployable
    assert not defended.deployable
    assert len(matrix.plan().trainings) == 1


def test_a_limit_takes_the_first_cells_and_trains_only_for_them() -> None:
    plan = Matrix({**NOISE, "cut": ["conv1", "conv2"], "seeds": [0, 1]}).plan(limit=1)
    assert (len(plan.trainings), len(plan.attacks), plan.left) == (1, 2, 3)


def test_the_plan_says_how_long_it_takes_roughly() -> None:
    one = Matrix(NOISE).plan()
    assert one.estimate is not None
    assert "time       roughly " in str(one)
    longer = Matrix({**NOISE, "train": {**QUICK["train"], "epochs": 50}}).plan(jobs=1)
    assert longer.estimate is not None
    assert longer.estimate.training > 5 * one.estimate.training


def test_an_attack_beside_the_session_takes_longer_where_that_is_longer_and_one_after_it_does_not() -> None:
    def seconds(attack: str, epochs: int) -> float:
        train = {**QUICK["train"], "epochs": epochs}
        estimate = Matrix({**NOISE, "attack": attack, "profile": "active", "train": train}).plan().estimate
        assert estimate is not None
        return estimate.attacks

    assert seconds("pcat", 5000) > 5 * seconds("pcat", 1)
    assert seconds("candidate-match", 5000) == seconds("candidate-match", 1) == 2 * SCORING  # members and queries


def test_rows_sent_once_are_a_training_of_their_own_and_change_no_other_key() -> None:
    frozen = {**QUICK["train"], "head": "frozen"}
    [always] = cells(train=frozen)
    [once] = cells(train={**frozen, "release": "once"})
    assert "release" not in always.training
    assert once.session_key() != always.session_key()
    assert once.twin().key() == always.twin().key()
    with pytest.raises(MatrixError, match="release: once needs head: frozen"):
        cells(train={**QUICK["train"], "release": "once"})
