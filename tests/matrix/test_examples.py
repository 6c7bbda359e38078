# SPDX-License-Identifier: Apache-2.0
"""The examples are what they promise: they resolve, and say how much there is to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitguard.matrix import Matrix, MatrixError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_faces_demonstration() -> None:
    matrix = Matrix.from_file(EXAMPLES / "faces.yaml")
    counts = matrix.plan().as_dict()
    assert matrix.demonstration  # and says so
    assert counts["deployments"] >= 24
    assert counts["trainings"]["total"] < counts["deployments"]  # deeper cuts share
    cells = [r.cell for r in matrix.cells]
    assert {(c.mode, c.labels) for c in cells} == {
        ("vanilla", "sent"),
        ("vanilla", "server"),
        ("u-shaped", "client"),
        ("splitfed", "sent"),
    }
    assert {d.name for c in cells for d in c.defense} == {"gaussian", "nopeek", "deeper-cut"}
    assert any(c.training["head"] == "frozen" and c.defense for c in cells)
    assert {c.goal for c in cells} == {"inputs", "labels", "candidates"}
    # Whatever is refused is refused because the adversary is given what it would infer.
    assert all("is given the labels" in str(r.reason) for r in matrix.cells if r.reason is not None)


def test_the_fashion_mnist_example() -> None:
    try:
        matrix = Matrix.from_file(EXAMPLES / "fashion-mnist.yaml")
    except MatrixError as error:
        if "is not on this machine" not in str(error):
            raise
        pytest.skip(str(error))
    assert not matrix.demonstration
    assert all("is given the labels" in str(r.reason) for r in matrix.cells if r.reason is not None)
    assert {c.cell.data["train"] for c in matrix.cells} == {20000}
