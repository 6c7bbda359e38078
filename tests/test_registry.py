# SPDX-License-Identifier: Apache-2.0
"""Registries: names, near misses, checked settings, and refusal of a taken name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest

from splitguard.api import ATTACKS, DEFENSES
from splitguard.errors import BadSetting, UnknownName
from splitguard.registry import Registry, parse_spec, settings_of


def table() -> Registry[Any]:
    made: Registry[Any] = Registry("thing")

    @made.add("round-thing")
    @dataclass
    class Round:
        radius: float
        colour: str = "red"
        holes: tuple[int, ...] = ()
        more: Mapping[str, int] = field(default_factory=dict)

    @made.add("plain")
    class Plain:
        pass

    return made


def test_it_builds_from_a_name_or_a_mapping() -> None:
    thing = table().build({"round-thing": {"radius": 2, "holes": [1, 2]}})
    assert (thing.radius, thing.colour, thing.holes) == (2.0, "red", (1, 2))
    assert settings_of(thing) == {"radius": 2.0, "colour": "red", "holes": (1, 2), "more": {}}
    assert table().build("plain").name == "plain"
    assert table().build("round-thing", radius=1).radius == 1
    assert list(table()) == ["plain", "round-thing"]


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("round-think", UnknownName, r"unknown thing 'round-think'. Did you mean 'round-thing'\? Known: plain, round"),
        ({"round-thing": {"radios": 1}}, UnknownName, "Did you mean 'radius'"),
        ("round-thing", BadSetting, "needs the setting 'radius'"),
        ({"round-thing": {"radius": "wide"}}, BadSetting, "'radius' got 'wide'.*valid number"),
        ({"a": {}, "b": {}}, BadSetting, "written as a name or as"),
        (7, BadSetting, "got 7"),
        ({"round-thing": 3}, BadSetting, "written as a name or as"),
    ],
)
def test_what_is_wrong_is_said(spec: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        table().build(spec)


def test_a_taken_name_is_refused_with_both_places() -> None:
    made = table()
    with pytest.raises(BadSetting, match=r"'plain' is taken: tests\.test_registry filed it"):
        made.add("plain")(dict)


def test_specs() -> None:
    assert parse_spec("a", what="x") == ("a", {})
    assert parse_spec({"a": None}, what="x") == ("a", {})
    assert parse_spec({"a": {"b": 1}}, what="x") == ("a", {"b": 1})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A registry that finds two plug-ins of a distribution, one of which breaks on import."""
    facts = tmp_path / "theirs-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: their-things\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[test.things]\nbad-thing = their_bad\nexits = their_exit\ngood = their_good\n"
    )
    (tmp_path / "their_bad.py").write_text("raise RuntimeError('no such license')\n")
    (tmp_path / "their_exit.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "their_good.py").write_text("from tests.test_registry import MADE\nMADE[0].add('good')(lambda: 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    MADE[:] = [Registry("thing", group="test.things")]
    return MADE[0]


MADE: list[Registry[Any]] = []


def test_a_broken_entry_point_is_told_and_the_others_are_loaded(
    installed: Registry[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert installed.names() == ["good"]
    told = capsys.readouterr().err
    assert told.count("their-things") == 4  # each warning names it, and says what to do with it
    assert "their_bad raised RuntimeError: no such license" in told
    assert sorted(installed.broken) == ["bad-thing", "exits"]
    with pytest.raises(
        BadSetting, match=r"'bad-thing' of the distribution their-things.*RuntimeError: no such license"
    ):
        installed.build("bad-thing")
    with pytest.raises(UnknownName, match=r"Known: good\. Installed, but broken: bad-thing, exits\."):
        installed.get("other")


def test_after_a_plug_in_of_the_tree_broke_the_next_call_loads_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "their_tree"
    tree.mkdir()
    (tree / "__init__.py").write_text("")
    files = "from tests.test_registry import MADE\nMADE[0].add('{0}')(type('{0}', (), {{'__module__': __name__}}))\n"
    (tree / "early.py").write_text(files.format("early"))
    (tree / "late.py").write_text(files.format("late") + "raise RuntimeError('no such license')\n")
    monkeypatch.syspath_prepend(tmp_path)
    MADE[:] = [Registry("thing", package="their_tree")]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such license"):
            MADE[0].names()
    (tree / "late.py").write_text(files.format("late"))
    assert MADE[0].names() == ["early", "late"]


WORDED = [
    (cls, name)
    for registry in (ATTACKS, DEFENSES)
    for cls in (registry.get(known) for known in registry)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
    for name, hint in get_type_hints(cls).items()
    if get_origin(hint) is Literal and name in {f.name for f in dataclasses.fields(cls)}
]


@pytest.mark.parametrize(("cls", "name"), WORDED, ids=lambda value: getattr(value, "__name__", value))
def test_a_setting_that_is_a_word_is_checked_by_the_class_itself(cls: type[Any], name: str) -> None:
    assert len(WORDED) >= 8
    with pytest.raises((BadSetting, UnknownName), match=rf"unknown {name} 'no-such-word'.* Known: "):
        cls(**{name: "no-such-word"})
