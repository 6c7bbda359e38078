# SPDX-License-Identifier: Apache-2.0
"""PCAT's head beside the clone of UnSplit's schedule: how either serves, and what was stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from benchmarks import evidence
from benchmarks.reference_pcat import ours_serves, serves, watched
from benchmarks.reproduce.__main__ import PAPERS
from benchmarks.versions import changed
from splitguard.api import Guess, generator

MATRIX: dict[str, Any] = {
    "data": {"name": "faces", "train": 96, "test": 32, "aux": 40, "victims": {"member": 8, "query": 2}},
    "model": "lenet",
    "train": {"epochs": 2, "batch_size": 32},
}


def test_a_head_serves_as_the_network_does_where_it_is_the_clients_own() -> None:
    session, pcat = watched(MATRIX, 1)
    view = session.view(pcat)
    assert serves(session, Guess(ids=view.ids, head=session.split.head)) == pytest.approx(session.accuracy)
    guess = pcat.run(view, generator(session.seed, "benchmark", pcat.name))
    assert guess.head is not None
    assert ours_serves(session, pcat) == serves(session, guess)


@pytest.mark.parametrize(("name", "cut"), [("reference_pcat", "conv1"), ("reference_pcat_conv2", "conv2")])
def test_the_stored_order_is_the_papers_on_networks_that_its_file_does_not_have(name: str, cut: str) -> None:
    found = json.loads(evidence.STORED.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    paper = yaml.safe_load((PAPERS / "gao2023.yaml").read_text(encoding="utf-8"))
    assert found.get("cut", "conv1") == cut, "a result from before there was a choice is of conv1"
    assert not changed(found["versions"])
    assert not set(found["seeds"]) & set(paper["matrix"]["seeds"])
    assert found["rounds"] == 1000
    assert found["met"]
