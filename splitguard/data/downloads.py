# SPDX-License-Identifier: Apache-2.0
"""Where data files lie on this machine, and the only place in the data layer that downloads."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splitguard.errors import DataUnavailable, NotSupported

__all__ = ["DOWNLOADS", "Download", "cache_folder", "fetch", "places"]


@dataclass(frozen=True)
class Download:
    """A file, the addresses it is tried at in order, and the MD5 its publisher states."""

    file: str
    urls: tuple[str, ...]
    md5: str


def _idx(md5s: tuple[str, str, str, str], *mirrors: str) -> tuple[Download, ...]:
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = [f"{stem}-ubyte.gz" for stem in stems]
    return tuple(Download(f, tuple(m + f for m in mirrors), md5) for f, md5 in zip(files, md5s, strict=True))


DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "fashion-mnist": _idx(
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    "mnist": _idx(
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "cifar10": (
        Download(
            "cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
}
"""What `fetch` can get. The sums are those that the publishers state (torchvision checks the same)."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/splitguard/data``, by default below ~/.cache: where `fetch` puts files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splitguard" / "data"


def places(*names: str) -> Iterator[Path]:
    """Every place where a file of these names is looked for: ``$SPLITGUARD_DATA`` first, then `cache_folder`."""
    own = os.environ.get("SPLITGUARD_DATA")
    for folder in ([Path(own)] if own else []) + [cache_folder()]:
        for name in names:
            yield folder / name


def fetch(name: str, folder: Path | None = None) -> tuple[Path, ...]:
    """Downloads a data set, checks it, and says where it lies; files already there and whole are kept.

    Args:
        name: a key of `DOWNLOADS`; any other data set needs no download, which is said.
        folder: where to put the files; by default ``cache_folder() / name``.

    Raises:
        NotSupported: if there is nothing to download under that name.
        DataUnavailable: if no address answers, or what comes has another checksum; nothing half-done is left behind.
    """
    if name not in DOWNLOADS:
        raise NotSupported(f"nothing to download for {name!r}; data sets to fetch: {', '.join(sorted(DOWNLOADS))}")
    folder = cache_folder() / name if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    for download in DOWNLOADS[name]:
        path = folder / download.file
        if not (path.is_file() and _md5(path) == download.md5):
            _get(download, path)
    return tuple(folder / download.file for download in DOWNLOADS[name])


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _get(download: Download, path: Path) -> None:
    """Into a temporary file beside ``path``, checked, then renamed."""
    tried: list[str] = []
    for url in download.urls:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=60) as answer:
                shutil.copyfileobj(answer, out)
            found = _md5(part)
            if found == download.md5:
                part.replace(path)
                return
            tried.append(f"{url}: MD5 {found}, wanted {download.md5}")
        except (OSError, http.client.HTTPException) as error:
            tried.append(f"{url}: {error}")
        finally:
            part.unlink(missing_ok=True)
    raise DataUnavailable(
        f"cannot download {download.file}: {'; '.join(tried)}. Put the file into {path.parent} by hand"
    )
