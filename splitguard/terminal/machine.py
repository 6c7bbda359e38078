# SPDX-License-Identifier: Apache-2.0
"""``splitguard fetch`` and ``splitguard doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform

from rich.table import Table

from splitguard.errors import DataUnavailable, SplitguardError
from splitguard.terminal.console import plain_console

__all__ = ["doctor", "fetch"]

PACKAGES = ("torch", "torchvision", "opacus", "scikit-image", "lpips", "numpy", "scipy", "scikit-learn", "pandas")


def fetch(name: str) -> None:
    """Downloads a data set, or the weights of LPIPS."""
    if name == "lpips":
        from splitguard.metrics.weights import alexnet_features

        alexnet_features(download=True)
        print("LPIPS weights: at hand")
        return
    from splitguard.data import fetch as fetch_data

    print(f"{name}: {', '.join(map(str, fetch_data(name)))}")


def doctor(*, as_json: bool) -> int:
    """Prints what is there and what is missing; 1 if something that splitguard needs does not work."""
    rows = [*_packages(), *_plugins(), *_data_sets(), _lpips(), _accelerator()]
    if as_json:
        print(json.dumps([dict(zip(("what", "state", "detail"), r, strict=True)) for r in rows]))
    else:
        table = Table(title=f"Python {platform.python_version()}")
        for heading in ("what", "state", "detail"):
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        plain_console().print(table)
    return int(any(state == "broken" for _, state, _ in rows))


def _packages() -> list[tuple[str, str, str]]:
    out = []
    for name in PACKAGES:
        try:
            out.append((name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            out.append((name, "broken", f"not installed: pip install {name}"))
    return out


def _plugins() -> list[tuple[str, str, str]]:
    """The plug-ins of other distributions that cannot be loaded."""
    from splitguard.api import ATTACKS, DEFENSES
    from splitguard.data import DATASETS, PARTITIONS
    from splitguard.models import MODELS

    tables = (ATTACKS, DEFENSES, MODELS, DATASETS, PARTITIONS)
    return [(f"{t.what}: {found.name}", "broken", str(found)) for t in tables for found in t.broken.values()]


def _data_sets() -> list[tuple[str, str, str]]:
    from splitguard.data import DATASETS

    out = []
    for name in ("faces", "fashion-mnist", "mnist", "cifar10"):
        try:
            pool = DATASETS.get(name)()
            out.append((f"data: {name}", "ok", f"{len(pool.labels):,} training rows"))
        except DataUnavailable as error:
            out.append((f"data: {name}", "absent", str(error)))
        except SplitguardError as error:
            out.append((f"data: {name}", "broken", str(error)))
    return out


def _lpips() -> tuple[str, str, str]:
    from splitguard.metrics.perceptual import lpips_available

    if lpips_available():
        return "LPIPS weights", "ok", "AlexNet v0.1"
    return "LPIPS weights", "absent", "lpips stays empty in results; run: splitguard fetch lpips"


def _accelerator() -> tuple[str, str, str]:
    import torch

    if torch.cuda.is_available():
        return "accelerator", "ok", torch.cuda.get_device_name()
    return "accelerator", "absent", f"CPU, {torch.get_num_threads()} threads"
