# SPDX-License-Identifier: Apache-2.0
"""The structure of a matrix file: what is refused, with which words, and how blocks are laid over the top level."""

from __future__ import annotations

from typing import Any

import pytest

from splitguard.errors import BadSetting
from splitguard.matrix.axes import combinations
from splitguard.matrix.reading import MatrixError, Source
from splitguard.matrix.spec import MatrixFile, validate

GOOD: dict[str, Any] = {"data": "faces", "model": "lenet", "attack": "inverse-network"}


def check(**more: Any) -> MatrixFile:
    value = {**GOOD, **more}
    return validate(value, Source.of(value))


def test_single_values_are_lists_of_one() -> None:
    file = check(seeds=3, defense=[{"nopeek": None}, {"gaussian": {"epsilon": 8}}])
    assert file.data == ["faces"]
    assert file.seeds == [3]
    assert file.defense == [{"nopeek": None}, {"gaussian": {"epsilon": 8}}]
    assert check(defense=[["nopeek", "gaussian"]]).defense == [["nopeek", "gaussian"]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"atack": "x"}, "matrix, atack: unknown key 'atack'. Did you mean 'attack'"),
        ({"blocks": [{"title": "x"}]}, "matrix, blocks[0].title: unknown key 'title'"),
        ({"seeds": [0, -1]}, "matrix, seeds[1]: wanted greater than or equal to 0; got -1"),
        ({"seeds": [True]}, "matrix, seeds[0]: wanted a valid integer; got True"),
        ({"seeds": [0.5]}, "seeds[0]: wanted a valid integer; got 0.5"),
        ({"adaptive": "no"}, "matrix, adaptive: wanted a valid boolean; got 'no'"),
        ({"attack": []}, "matrix, attack: wanted one value or more; got []"),
        (
            {"attack": [{"a": {}, "b": {}}]},
            "attack[0]: wanted a name, or {name: {setting: value}}; got {'a': {}, 'b': {}}",
        ),
        ({"attack": [{"a": 3}]}, "attack[0]: wanted a name, or {name: {setting: value}}; got {'a': 3}"),
        ({"defense": [[]]}, "defense[0]: wanted one defense or more; write none for no defense; got []"),
        ({"cut": 3}, "matrix, cut: wanted a valid string; got 3"),
        ({"train": "fast"}, "matrix, train: wanted a valid dictionary; got 'fast'"),
        ({"data": 5}, "matrix, data: wanted a name, or {setting: value, ...}; got 5"),
        ({"demonstration": 1}, "matrix, demonstration: wanted a valid boolean; got 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(more: dict[str, Any], message: str) -> None:
    with pytest.raises(MatrixError) as error:
        check(**more)
    assert message in str(error.value)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(MatrixError) as error:
        check(seeds=-1, cut=3, atack="x")
    assert len(error.value.problems) == 3


@pytest.mark.parametrize("value", [None, 3, ["a"], ""])
def test_a_file_is_a_mapping(value: Any) -> None:
    with pytest.raises(MatrixError, match="wanted keys such as data, model, cut, attack"):
        validate(value, Source.of(value))


def test_blocks_lie_over_the_top_level() -> None:
    file = check(
        train={"epochs": 2, "batch_size": 8},
        cut=["conv1", "conv2"],
        blocks=[{"cut": "fc1"}, {"train": {"epochs": 5}}, {"train": [{"head": "frozen"}, {"epochs": 1}]}],
    )
    first, second, third = file.parts()
    assert first.cut == ["fc1"]
    assert first.train == [{"epochs": 2, "batch_size": 8}]
    assert second.cut == ["conv1", "conv2"]
    assert second.train == [{"epochs": 5, "batch_size": 8}]
    assert third.train == [{"epochs": 2, "batch_size": 8, "head": "frozen"}, {"epochs": 1, "batch_size": 8}]
    assert third.attack == ["inverse-network"]


def test_one_training_setting_that_is_a_mapping_is_no_name() -> None:
    (only,) = check(train={"optimizer": {"name": "adam"}}, blocks=[{"train": {"epochs": 1}}]).parts()
    assert only.train == [{"optimizer": {"name": "adam"}, "epochs": 1}]


def test_a_name_in_a_block_replaces_settings() -> None:
    for written in ({"name": "faces", "aux": 40}, {"faces": {"aux": 40}}):
        first, second = check(data=written, blocks=[{"data": "mnist"}, {"data": {"clients": 3}}]).parts()
        assert first.data == ["mnist"]
        assert second.data == [{"name": "faces", "aux": 40, "clients": 3}]
    (only,) = check(data="faces", blocks=[{"data": {"clients": [2, 3]}}]).parts()
    assert only.data == [{"name": "faces", "clients": [2, 3]}]


def test_lists_among_settings_are_crossed_last_fastest() -> None:
    assert combinations({"a": [1, 2], "b": {"c": [3, 4]}}) == [
        {"a": 1, "b": {"c": 3}},
        {"a": 1, "b": {"c": 4}},
        {"a": 2, "b": {"c": 3}},
        {"a": 2, "b": {"c": 4}},
    ]
    assert combinations({}) == [{}]


def test_a_list_of_mappings_is_an_axis_whose_settings_are_axes() -> None:
    found = combinations({"optimizer": [{"name": "sgd", "lr": [0.1, 0.2]}, {"name": "adam"}]})
    assert [f["optimizer"] for f in found] == [{"name": "sgd", "lr": 0.1}, {"name": "sgd", "lr": 0.2}, {"name": "adam"}]


def test_settings_that_are_lists_by_nature_stay_whole_and_lists_of_them_are_axes() -> None:
    assert combinations({"phases": ["query"]}, whole={"phases"}) == [{"phases": ["query"]}]
    assert combinations({"phases": [["query"], ["training", "query"]]}, whole={"phases"}) == [
        {"phases": ["query"]},
        {"phases": ["training", "query"]},
    ]


def test_an_axis_needs_a_value() -> None:
    with pytest.raises(BadSetting, match="'epsilon' is an axis without a value"):
        combinations({"epsilon": []})
