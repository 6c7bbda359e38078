# SPDX-License-Identifier: Apache-2.0
"""docs/papers.md says what the stored results say, and each paper's claims are about cells that its matrix has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.reproduce import __main__ as reproduce
from benchmarks.reproduce.__main__ import HEAD, PAPERS, STORED, stored, table
from splitguard.matrix import Matrix, MatrixError
from splitguard.matrix.record import described

PAGE = Path(__file__).parents[1] / "docs" / "papers.md"
NAMES = sorted(path.stem for path in PAPERS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_stored_rows_of_each_paper(name: str) -> None:
    assert f"\n{table(name, stored(name))}\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_has_no_other_paper_and_today_s_words() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == NAMES


#: Where the data of a paper lie; Fashion-MNIST is a package of the system.
FILES = {"mnist": "mnist10k.npz", "cifar10": "cifar10.npz"}


@pytest.mark.parametrize("name", NAMES)
def test_each_claim_is_about_cells_of_the_matrix(
    name: str, test_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim about an attack that is spelt another way would stand on the page as not run, for ever."""
    paper = yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))
    if file := FILES.get(paper["matrix"]["data"]["name"]):
        monkeypatch.setenv("SPLITGUARD_DATA", str(test_data(file).parent))
    try:
        matrix = Matrix(paper["matrix"])
    except MatrixError as error:
        if not all("is not on this machine" in problem for problem in error.problems):
            raise
        pytest.skip(f"its data set is not at hand: {error}")
    cells = [described(resolved.cell) for resolved in matrix.cells if resolved.reason is None]
    for where in (one for claim in paper["claims"] for one in wheres(claim)):
        own = {column: value for column, value in where.items() if column in cells[0] and column != "phase"}
        assert any(own.items() <= cell.items() for cell in cells), where


def wheres(claim: dict[str, Any]) -> list[dict[str, Any]]:
    """All that a claim picks records by."""
    return (
        [claim["where"]]
        if "where" in claim
        else [one for key in ("rising", "line", "others") for one in claim.get(key, ())]
    )


def test_words_are_those_of_the_file_where_it_asks_for_the_same_numbers_and_else_those_of_the_run() -> None:
    result = stored("li2022-marvell")
    assert result is not None
    later = result | {"differs": "said when it was run"}
    assert "said when it was run" not in table("li2022-marvell", later)
    assert "two of the five trainings" in table("li2022-marvell", later)
    assert "said when it was run" in table("li2022-marvell", later | {"file": "of another matrix"})


def test_a_paper_whose_data_are_not_at_hand_is_said_and_its_stored_result_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str, out: Path, jobs: int) -> None:
        Matrix({"data": {"name": "cifar10", "path": str(tmp_path / "absent.npz")}, "model": "lenet", "attack": "sdar"})

    monkeypatch.setattr(reproduce, "run", absent)
    monkeypatch.setattr("sys.argv", ["reproduce", "zhao2020"])
    before = (STORED / "zhao2020.json").read_bytes()
    reproduce.main()
    told = capsys.readouterr()
    assert told.err.startswith("zhao2020 was not run: ")
    assert str(tmp_path / "absent.npz") in told.err
    assert "## zhao2020" in told.out
    assert (STORED / "zhao2020.json").read_bytes() == before
