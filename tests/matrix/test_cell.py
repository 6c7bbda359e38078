# SPDX-License-Identifier: Apache-2.0
"""Keys: pinned, complete, and shared by exactly those cells that may share."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from splitguard.matrix.cell import KEY_VERSION, Cell, Plugin, canonical
from splitguard.matrix.record import COLUMNS, Record

#: Not one field has its default.
CELL = Cell(
    data={
        "name": "npz",
        "source": {"path": "somewhere/x.npz", "class_names": ["a", "b"], "victim_class": 1},
        "clients": 3,
        "partition": {"dirichlet": {"alpha": 0.3}},
        "train": 120,
        "test": 30,
        "aux": 40,
        "aux_classes": [0, 1],
        "victims": {"member": 8, "query": 9},
        "digest": "0123456789abcdef",
    },
    model={"name": "lenet", "dropout": 0.25, "weights": "w.safetensors", "digest": "fedcba9876543210"},
    mode="u-shaped",
    labels="client",
    base=("conv1", "fc2"),
    cuts=("conv2", "fc2"),
    defense=(
        Plugin("deeper-cut", 1, {"layers": 2}, {"layers": 2}, moves_only=True),
        Plugin("gaussian", 3, {"epsilon": 8.0, "clip": "auto", "phases": ["training"]}, {"epsilon": 8.0}),
    ),
    training={
        "epochs": 7,
        "optimizer": {"name": "adam", "lr": 0.001, "betas": [0.8, 0.9]},
        "head": "frozen",
        "pretrain_epochs": 4,
        "threads": 2,
        "device": "cpu",
        "checkpoint_every": 5,
    },
    attack=Plugin("sdar", 2, {"steps": 50, "lr": 0.1}, {"steps": 50}),
    goal="inputs",
    active=True,
    profile="active",
    adaptive=False,
    seed=11,
)

PINNED = {1: ("c06e363a993eb12f", "c0f1e3430cb09d3b", "d8dd1d996b9bb315")}


def test_keys_of_a_cell_without_defaults_are_pinned() -> None:
    """If this fails, either a change was made by mistake, or KEY_VERSION must be raised and a new line added."""
    assert (CELL.key(), CELL.session_key(), CELL.deployment_key()) == PINNED[KEY_VERSION]


def changed(**more: Any) -> Cell:
    return replace(CELL, **more)


GAUSSIAN = CELL.defense[1]
OTHERS = {
    "data": changed(data={**CELL.data, "train": 121}),
    "content": changed(data={**CELL.data, "digest": "0000000000000000"}),
    "model": changed(model={**CELL.model, "dropout": 0.0}),
    "weights": changed(model={**CELL.model, "digest": "0000000000000000"}),
    "mode": changed(mode="splitfed"),
    "labels": changed(labels="server"),
    "cuts": changed(cuts=("conv1", "fc2")),
    "setting": changed(defense=(CELL.defense[0], replace(GAUSSIAN, settings={**GAUSSIAN.settings, "epsilon": 9.0}))),
    "version": changed(defense=(CELL.defense[0], replace(GAUSSIAN, version=4))),
    "order": changed(defense=(GAUSSIAN, Plugin("nopeek", 1, {"weight": 0.5}))),
    "epochs": changed(training={**CELL.training, "epochs": 8}),
    "threads": changed(training={**CELL.training, "threads": 1}),
    "seed": changed(seed=12),
    "active attack": changed(attack=replace(CELL.attack, version=3)),
    "active attack's setting": changed(attack=replace(CELL.attack, settings={"steps": 51, "lr": 0.1})),
    "profile": changed(profile="head-known"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_a_training_changes_both_keys(name: str) -> None:
    assert OTHERS[name].key() != CELL.key()
    assert OTHERS[name].session_key() != CELL.session_key()


@pytest.mark.parametrize(
    "other",
    [
        changed(training={**CELL.training, "device": "cuda"}),
        changed(training={**CELL.training, "checkpoint_every": None}),
        changed(data={**CELL.data, "source": {**CELL.data["source"], "path": "elsewhere/y.npz"}}),
        changed(model={**CELL.model, "weights": "elsewhere.safetensors"}),
        changed(defense=(CELL.defense[0], replace(GAUSSIAN, settings={**GAUSSIAN.settings, "epsilon": 8}))),
        changed(defense=(CELL.defense[0], replace(GAUSSIAN, told={}))),
    ],
    ids=["device", "checkpoints", "path of data", "path of weights", "8 for 8.0", "what was told"],
)
def test_what_changes_no_number_changes_no_key(other: Cell) -> None:
    assert other.key() == CELL.key()
    assert other.session_key() == CELL.session_key()


def test_who_knows_the_defense_and_who_does_not_draw_alike() -> None:
    knowing, static = changed(adaptive=True), changed(adaptive=False)
    assert static.key() != knowing.key() == knowing.paired_key() == static.paired_key()


def test_passive_attacks_share_a_session_and_active_ones_do_not() -> None:
    passive = changed(active=False)
    other = replace(passive, attack=Plugin("other"), profile="black-box", adaptive=True)
    assert passive.session_key() == other.session_key() != CELL.session_key()
    assert passive.key() != other.key()


def test_a_defense_that_only_moves_the_cut_shares_the_training_of_the_plain_cut_there() -> None:
    passive, plain = changed(active=False), changed(base=("conv2", "fc2"), defense=(GAUSSIAN,), active=False)
    assert plain.session_key() == passive.session_key()
    assert plain.key() != passive.key()
    assert plain.deployment_key() != passive.deployment_key()
    # An active attack is in its training, so that two cells never share one.
    assert replace(plain, active=True).session_key() != CELL.session_key()


def test_the_twin_has_the_original_cut_no_defense_and_a_trained_head() -> None:
    twin = CELL.twin()
    assert (twin.cuts, twin.defense, twin.active) == (("conv1", "fc2"), (), False)
    assert (twin.training["head"], twin.training["pretrain_epochs"]) == ("trained", None)
    assert twin.training["epochs"] == 7
    assert twin.twin() == twin


def test_attack_and_seed_are_no_part_of_a_deployment() -> None:
    assert changed(seed=1, attack=Plugin("x")).deployment_key() == CELL.deployment_key()
    assert changed(profile="black-box").deployment_key() != CELL.deployment_key()


def test_cells_and_records_survive_json() -> None:
    assert Cell.from_json(json.loads(json.dumps(CELL.to_json()))) == CELL
    record = Record(CELL, "query", "ok", None, {"ssim": 0.25, "lpips": float("nan")}, {"x": [1]}, {"torch": "2"})
    again = Record.from_json(json.loads(json.dumps(record.to_json())))
    assert again.values == {"ssim": 0.25, "lpips": None}  # missing is never a number
    assert (again.cell, again.phase, again.extra) == (CELL, "query", {"x": [1]})
    assert set(again.row()) <= set(COLUMNS)


def test_a_record_whose_key_does_not_fit_its_cell_is_refused() -> None:
    value = Record(CELL, "training", "ok").to_json()
    value["cell"]["seed"] = 12
    with pytest.raises(ValueError, match="does not fit the cell"):
        Record.from_json(value)


def test_nothing_but_finite_plain_data_has_a_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_labels_for_people() -> None:
    assert CELL.defended() == "deeper-cut(layers=2) + gaussian(epsilon=8), head frozen"
    assert changed(defense=(), training={}).defended() == "none"
    assert str(CELL.attack) == "sdar(steps=50)"
