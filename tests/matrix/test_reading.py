# SPDX-License-Identifier: Apache-2.0
"""YAML is read as by yaml.safe_load, and every value knows its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from splitguard.matrix.reading import MatrixError, Source, read_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def read(tmp_path: Path, text: str) -> tuple[Any, Source]:
    file = tmp_path / "m.yaml"
    file.write_text(text, encoding="utf-8")
    return read_yaml(file)


@given(value=PLAIN)
def test_values_are_those_of_safe_load(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = yaml.safe_dump(value)
    found, _ = read(tmp_path_factory.mktemp("yaml"), text)
    assert found == yaml.safe_load(text)


def test_one_em_five_is_a_number_as_in_yaml_1_2(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-5") == "1e-5"  # what this guards against
    found, _ = read(tmp_path, "[1e-5, 1.0e-5, -2E3, '1e-5', e5, 12e]")
    assert found == [1e-5, 1e-5, -2000.0, "1e-5", "e5", "12e"]


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    _, source = read(tmp_path, "data: faces\n\ndefense:\n  - none\n  - gaussian:\n      epsilon: [8,\n        200]\n")
    assert source.where(("defense", 1, "gaussian", "epsilon")) == "m.yaml, line 6, defense[1].gaussian.epsilon"
    assert source.where(("defense", 1, "gaussian", "epsilon", 1)) == "m.yaml, line 7, defense[1].gaussian.epsilon[1]"
    assert source.where(("data", 0)) == "m.yaml, line 1, data"  # one value stands for a list of one
    assert source.where(()) == "m.yaml, line 1"


def test_a_block_is_searched_before_the_top_level(tmp_path: Path) -> None:
    _, source = read(tmp_path, "train: {epochs: 3}\nblocks:\n  - train:\n      head: frozen\n")
    assert source.where(("train", 0, "head"), under=("blocks", 0)) == "m.yaml, line 4, blocks[0].train.head"
    assert source.where(("train", 0, "epochs"), under=("blocks", 0)) == "m.yaml, line 1, train.epochs"


def test_a_mapping_has_places_without_lines() -> None:
    source = Source.of({"attack": [{"x": {"steps": 1}}]})
    assert source.where(("attack", 0, "x", "steps")) == "matrix, attack[0].x.steps"


def test_merge_keys_and_repeated_anchors_are_read(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "a: &x {b: 1, c: 2}\nd: &y {<<: *x, c: 3}\ne: *y\n")
    assert found == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "m.yaml, line 3: the key 'a' is given twice, first in line 1"),
        ("a: &x\n  - *x\n", "this value contains itself"),
        ("a: {b: 1\nc: 2\n", "m.yaml, line 2: not valid YAML"),
        ("? [1, 2]\n: 3\n", "m.yaml, line 1: keys are names"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: not valid YAML: tag:yaml.org,2002:python"),
        ("a: !!python/name:os.system\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a: \x00", "m.yaml: not valid YAML"),
        ("a: 1\nb: 2020-13-45\n", "m.yaml, line 2: '2020-13-45' cannot be read as YAML's timestamp: month must be in"),
        ("a: !!int foo\n", "m.yaml, line 1: 'foo' cannot be read as YAML's int"),
        ("a: !!timestamp x\n", "m.yaml, line 1: 'x' cannot be read as YAML's timestamp"),
        ("a: !!bool x\n", "m.yaml, line 1: 'x' cannot be read as YAML's bool"),
        ("a:\n  b: [1, .nan]\n", "m.yaml, line 2: 'b': wanted a finite number; got .nan"),
        ("[1e999]", "m.yaml, line 1: wanted a finite number; got 1e999"),
        ("[" * 3000, "m.yaml: lists and mappings lie too deep"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MatrixError) as error:
        read(tmp_path, text)
    assert message in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"nothing\.yaml: cannot be read"):
        read_yaml(tmp_path / "nothing.yaml")
