# SPDX-License-Identifier: Apache-2.0
"""Coarse labels change what the network is trained on, and neither which rows are where nor anybody else's keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from splitguard.data import Data, DataSpec, Pool, Rows, draw, load
from splitguard.errors import BadSetting
from splitguard.matrix.deployments import Networks
from tests.engine import toys

COARSE = (0, 1, 0, 1, 2)


def pool(**more: Any) -> Pool:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (200, 1, 4, 4), generator=draws, dtype=torch.uint8)
    return Pool("five", images, torch.arange(200) % 5, class_names=tuple("abcde"), **more)


def test_rows_stay_where_they_are_and_their_class_becomes_their_attribute() -> None:
    how: dict[str, Any] = {"clients": 3, "partition": {"dirichlet": {"alpha": 1}}, "seed": 3}
    plain, coarse = draw(pool(), **how), draw(pool(), **how, coarse=COARSE)
    to = torch.tensor(COARSE)
    for part, rows in coarse.parts.items():
        was = plain.parts[part]
        assert torch.equal(rows.ids, was.ids)
        assert torch.equal(rows.inputs, was.inputs)
        assert rows.attributes is not None
        assert torch.equal(rows.attributes, was.labels)
        assert torch.equal(rows.labels, to[was.labels])
        assert was.attributes is None
    assert all(torch.equal(a, b) for a, b in zip(plain.clients, coarse.clients, strict=True))
    assert torch.equal(plain.members, coarse.members)
    assert (coarse.classes, coarse.attribute_classes, plain.attribute_classes) == (3, 5, None)
    assert (coarse.class_names, coarse.attribute_names) == (("a | c", "b | d", "e"), tuple("abcde"))
    assert coarse.digest != plain.digest
    assert draw(pool(), **how, coarse=(0, 0, 0, 1, 2)).digest not in (coarse.digest, plain.digest)


def test_attributes_travel_with_their_rows() -> None:
    data = draw(pool(), coarse=COARSE)
    some = data.train.of(data.members)
    assert some.attributes is not None
    assert torch.equal(torch.tensor(COARSE)[some.attributes], some.labels)
    assert some[:2].attributes is not None
    assert data.double().train.attributes is data.train.attributes


def test_the_class_of_all_victims_is_known_by_its_coarse_label() -> None:
    data = draw(pool(victim_class=4), coarse=COARSE, victims={"member": 4, "query": 4})
    assert data.victim_class == 2
    assert set(data.query.labels.tolist()) == {2}


def test_one_meaning_has_one_written_form_and_data_without_it_keeps_its_own() -> None:
    spec = DataSpec.parse({"name": "faces", "coarse": [7, 3, 7, 3, 0]})
    assert spec == DataSpec.parse("faces", coarse=list(COARSE))
    assert spec.as_dict()["coarse"] == list(COARSE)
    assert DataSpec.parse(yaml.safe_load(yaml.safe_dump(spec.as_dict()))) == spec
    assert DataSpec.parse(json.loads(json.dumps(spec.as_dict()))) == spec
    assert "coarse" not in DataSpec.parse("faces").as_dict()


def test_in_a_matrix_it_is_one_value_and_a_list_of_such_lists_is_an_axis() -> None:
    networks = Networks()
    assert networks.data_points({"name": "mnist", "coarse": [0, 0, 1]}) == [{"name": "mnist", "coarse": [0, 0, 1]}]
    assert len(networks.data_points({"name": "mnist", "coarse": [[0, 0, 1], [0, 1, 1]]})) == 2


@pytest.mark.parametrize(
    ("coarse", "message"),
    [
        ((0, 1, 1), r"one label for each of the 5 classes \(a, b, c, d, e\); got 3"),
        ((0, 0, 0, 0, 0), r"labels 0..L-1, L of 2 or more; got \[0\]"),
        ((0, 1, 2, 3, 4), "so nothing is hidden; merge some"),
        ((0, 0, 2, 2, 3), r"labels 0..L-1, L of 2 or more; got \[0, 2, 3\]"),
    ],
)
def test_coarse_labels_that_do_not_fit_are_refused(coarse: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        draw(pool(), coarse=coarse)


@pytest.mark.parametrize("coarse", [3, "01", [], [0, -1], [0, 1.5]])
def test_coarse_labels_that_are_none_are_refused(coarse: Any) -> None:
    with pytest.raises(BadSetting, match="coarse"):
        DataSpec("faces", coarse=coarse)


def test_faces_have_too_few_classes_to_hide_one() -> None:
    with pytest.raises(BadSetting, match="nothing is hidden"):
        load("faces", coarse=[0, 1])


def test_data_refuses_attributes_without_names_and_out_of_range() -> None:
    plain = toys.data()

    def with_attributes(found: Tensor | None, names: tuple[str, ...]) -> Data:
        parts: dict[str, Any] = {
            k: Rows(r.inputs, r.labels, r.ids, None if found is None else found[: len(r)])
            for k, r in plain.parts.items()
        }
        return Data("toy", 3, **parts, members=plain.members, clients=plain.clients, attribute_names=names)

    some = torch.zeros(100, dtype=torch.int64)
    assert with_attributes(some, ("x", "y")).attribute_classes == 2
    with pytest.raises(BadSetting, match="got 0 names and attributes"):
        with_attributes(some, ())
    with pytest.raises(BadSetting, match="got 2 names and no attributes"):
        with_attributes(None, ("x", "y"))
    with pytest.raises(BadSetting, match=r"attributes of train must lie in 0..1; got 5..5"):
        with_attributes(some + 5, ("x", "y"))
    with pytest.raises(BadSetting, match="one attribute each; got 3 for 2 rows"):
        Rows(torch.zeros(2, 1), some[:2], torch.arange(2), some[:3])
