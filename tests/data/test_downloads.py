# SPDX-License-Identifier: Apache-2.0
"""A download is checked before it gets its name; whole files are kept; failures leave nothing behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from splitguard.compat import torchvision
from splitguard.data import DOWNLOADS, cache_folder, fetch
from splitguard.data.downloads import Download, places
from splitguard.errors import DataUnavailable, NotSupported


def offer(folder: Path, content: bytes, md5: str | None = None, *bad: str) -> Download:
    source = folder / "at-the-publisher"
    source.write_bytes(content)
    return Download("x.bin", (*bad, source.as_uri()), md5 or hashlib.md5(content, usedforsecurity=False).hexdigest())


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Download, ...]]:
    made: dict[str, tuple[Download, ...]] = {}
    monkeypatch.setattr("splitguard.data.downloads.DOWNLOADS", made)
    return made


def test_the_second_address_serves_where_the_first_does_not(
    tmp_path: Path, table: dict[str, tuple[Download, ...]]
) -> None:
    table["toy"] = (offer(tmp_path, b"pixels", None, (tmp_path / "gone").as_uri()),)
    (path,) = fetch("toy", tmp_path / "out")
    assert path.read_bytes() == b"pixels"
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["x.bin"]


def test_a_whole_file_is_kept_and_a_damaged_one_is_replaced(
    tmp_path: Path, table: dict[str, tuple[Download, ...]]
) -> None:
    table["toy"] = (offer(tmp_path, b"pixels"),)
    (path,) = fetch("toy", tmp_path / "out")
    (tmp_path / "at-the-publisher").unlink()
    assert fetch("toy", tmp_path / "out") == (path,)
    path.write_bytes(b"pix")
    with pytest.raises(DataUnavailable, match=r"cannot download x\.bin"):
        fetch("toy", tmp_path / "out")
    table["toy"] = (offer(tmp_path, b"pixels"),)
    fetch("toy", tmp_path / "out")
    assert path.read_bytes() == b"pixels"


def test_another_checksum_is_refused_and_leaves_nothing(tmp_path: Path, table: dict[str, tuple[Download, ...]]) -> None:
    table["toy"] = (offer(tmp_path, b"pixels", "0" * 32),)
    with pytest.raises(DataUnavailable, match=f"MD5 [0-9a-f]{{32}}, wanted {'0' * 32}.*by hand"):
        fetch("toy", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_needs_no_download_says_so() -> None:
    with pytest.raises(
        NotSupported, match="nothing to download for 'faces'; data sets to fetch: cifar10, fashion-mnist"
    ):
        fetch("faces")


def test_addresses_and_sums_of_mnist_are_torchvision_s() -> None:
    for name, other in (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")):
        theirs = getattr(torchvision().datasets, other)
        assert [(d.file, d.md5) for d in DOWNLOADS[name]] == list(theirs.resources)
        assert {url.removesuffix(d.file) for d in DOWNLOADS[name] for url in d.urls} <= set(theirs.mirrors)


def test_the_own_folder_is_looked_at_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SPLITGUARD_DATA", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "cache" / "splitguard" / "data"
    assert list(places("a", "b")) == [
        tmp_path / "own/a",
        tmp_path / "own/b",
        cache_folder() / "a",
        cache_folder() / "b",
    ]
    monkeypatch.delenv("SPLITGUARD_DATA")
    assert list(places("a")) == [cache_folder() / "a"]
