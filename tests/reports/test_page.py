# SPDX-License-Identifier: Apache-2.0
"""The page is one file that asks for nothing, escapes what users name, and shows every deployment."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from splitguard.errors import DataUnavailable
from splitguard.matrix import Results, load
from splitguard.reports import write_report
from splitguard.reports.facts import Deployment
from splitguard.reports.page import _intervals
from tests.reports.cases import CASES, NASTY, SOURCE, TITLE, Case
from tests.reports.runs import write_run

LOADING = {"src", "href", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attrs for name, attrs in self.tags if name == tag)


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_writing_it_again_gives_the_same_three_files(folder: Path, page: str) -> None:
    assert [path.name for path in write_report(folder)] == ["report.html", "results.csv", "summary.csv"]
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 432
    assert len((folder / "summary.csv").read_text().splitlines()) == 1 + 16
    assert not list(folder.glob("*.part"))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="holds no run that can be read"):
        write_report(tmp_path)


def test_nothing_is_asked_of_the_network(read: Reader, page: str) -> None:
    for _, attrs in read.tags:
        for name in LOADING & attrs.keys():
            assert str(attrs[name]).startswith(("#", "data:")), (name, attrs[name])
    assert "@import" not in page
    assert re.findall(r"url\((?!['\"]?(?:data:|#))", page.split("<style>")[1].split("</style>")[0]) == []
    [policy] = [m["content"] for m in read.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy


def test_the_policy_allows_the_pages_own_scripts_and_no_others(read: Reader) -> None:
    tags = list(read.all("script"))
    run = [text for text, attrs in zip(read.scripts, tags, strict=True) if "type" not in attrs]
    [policy] = [str(m["content"]) for m in read.all("meta") if m.get("http-equiv")]
    allowed = re.search(r"script-src ([^;]*);", policy)
    assert allowed is not None
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert allowed[1].split() == hashes
    assert sum("plotly.js v" in text for text in run) == 1


def test_what_a_user_names_is_text(read: Reader, page: str) -> None:
    assert NASTY in read.text
    assert TITLE in read.text
    assert " ".join(SOURCE.split()) in read.text
    assert not any("alert(" in script for script in read.scripts if not script.lstrip().startswith("{"))
    assert NASTY not in page
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert all(str(img["src"]).startswith("data:image/png") for img in read.all("img"))


def test_every_deployment_is_in_the_table_and_has_its_victims_or_a_reason(
    read: Reader, everyone: list[Deployment]
) -> None:
    ids = [attrs["id"] for _, attrs in read.tags if attrs.get("id")]
    for d in everyone:
        assert f"deployment-{d.number}" in ids
        assert f"victims-{d.number}" in ids
        assert d.name in read.text
    assert "No reconstruction to show: not run yet." in read.text
    assert "No reconstruction to show: nothing crosses a cut." in read.text
    assert len(list(read.all("img"))) == 15 * 4


def test_links_lead_somewhere_and_ids_are_unique(read: Reader) -> None:
    ids = [attrs["id"] for _, attrs in read.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    for link in read.all("a"):
        assert str(link["href"]).removeprefix("#") in ids
    for figure in read.all("figure"):
        assert figure.get("data-chart", ids[0]) in ids


def test_it_can_be_read_aloud(read: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(str(img["alt"]).startswith("Top row: 8 ") for img in read.all("img"))
    assert all(th.get("scope") in ("col", "row") for th in read.all("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in read.all("svg"))
    assert next(read.all("html"))["lang"] == "en"


def test_charts_are_there_without_scripts_and_hold_the_same_data(read: Reader) -> None:
    assert sum(svg.get("class") == "still" for svg in read.all("svg")) == 5
    charts = [json.loads(text) for text in read.scripts if text.lstrip().startswith("{")]
    assert len(charts) == 5
    drawn = [len(trace["x"]) for trace in charts[0]["data"] if "markers" in trace["mode"]]
    assert sum(drawn) == 15


def test_the_top_of_the_page_says_the_answer_the_adversary_and_that_it_is_a_demonstration(read: Reader) -> None:
    top = read.text[: read.text.index("Each mark is one deployment")]
    assert "Deployment #6 (vanilla · conv2 · gaussian(epsilon=200)) is the most accurate" in top
    assert "profile head-known" in top
    assert "Demonstration, not evidence." in top


def test_the_rest_is_said(read: Reader) -> None:
    for text in (
        "Bars are 95 % intervals over 3 seeds (Student t). With so few seeds they are wide.",
        "#5 to #7, #9, #14 Each client input has no meaningful guarantee, only (200, 1e-05)-DP",
        "No guarantee is stated for #1 to #3, #8, #10 to #13, #15 to #17.",
        "20.0 % exceeded",
        "splitguard run matrix.yaml --out run --jobs 2",
        "this adversary (the server) is given the labels",
    ):
        assert text in read.text


def test_a_run_of_one_seed_says_that_its_intervals_are_over_victims(tmp_path: Path) -> None:
    write_report(write_run(tmp_path / "run", cases=CASES[:2], seeds=[0], demonstration=False))
    text = Reader((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "Bars are 95 % intervals of one seed: bootstrap over its victims" in text
    assert "Demonstration, not evidence." not in text
    assert "Labels: worst leakage against accuracy Not evaluated, so not drawn: #1, #2 (labels are sent)." in text


def test_a_run_with_more_seeds_here_than_there_says_both(everyone: list[Deployment]) -> None:
    few = replace(everyone[0], records=tuple(r for r in everyone[0].records if r.cell.seed == 0))
    said = _intervals([few, *everyone[1:]])
    assert said.startswith("Bars are 95 % intervals over 3 seeds (Student t).")
    assert "Where one seed was run they are of that: bootstrap over its victims" in said


def test_a_run_that_has_not_begun_has_a_page_too(tmp_path: Path) -> None:
    write_report(write_run(tmp_path / "run", cases=[Case("vanilla", ("conv1",), run=False)], title=None, source=None))
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "No attack on inputs has finished, so nothing is known about what leaks." in html
    assert "What leaks, and what protection costs" in html
    assert "plotly.js v" not in html  # nothing to draw
    assert len(html) < 100_000
    assert 'data-chart="' not in html


def test_missing_numbers_are_dashes_and_never_zero(folder: Path, results: Results) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    row = html[html.index('id="deployment-16"') :].split("</tr>")[0]
    cells = [" ".join(Reader(cell).text.split()) for cell in re.findall(r"<td.*?</td>", row, flags=re.DOTALL)]
    assert cells[2:4] == ["—", "—"]
    assert [cell.split(" not")[0] for cell in cells[4:7]] == ["not evaluated"] * 3
    assert not any(re.search(r"\d", cell) for cell in cells[1:])
    assert "data-sort" not in row.split("<td", 3)[3]
    assert load(folder).summary.shape == results.summary.shape
