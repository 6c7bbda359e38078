# SPDX-License-Identifier: Apache-2.0
"""The deployments of an invented run: what a page must cope with.

Names that are markup, failed, refused and weak attacks, an unusable deployment, one that was never run, and a baseline
without a cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from splitguard.engine.training import Training
from splitguard.matrix import Cell, Plugin

NASTY = "<script>alert(1)</script>"
TITLE = "Faces behind a cut: <b>which deployment</b> may ship?"
SOURCE = "# a matrix\ndata: faces\nattack: [inverse-network, '</script><script>alert(2)</script>']\n"
VICTIMS, CANDIDATES = 24, 16
SEEDS = (0, 1, 2)
ENVIRONMENT = {
    "splitguard": "0.1.0",
    "commit": "0123456789abcdef",
    "dirty": False,
    "python": "3.11.7",
    "torch": "2.13.0",
}
FLOPS = {"conv1": 93_600, "conv2": 333_600, "fc1": 429_600, "": 0}
#: Leakage of the undefended network at each cut, by attack.
LEAKS = {
    "white-box-inversion": {"conv1": 0.97, "conv2": 0.78, "fc1": 0.10},
    "inverse-network": {"conv1": 0.46, "conv2": 0.41, "fc1": 0.30},
}
ATTACKS = (
    Plugin("white-box-inversion", settings={"steps": 300, "lr": 0.05}, told={"steps": 300}),
    Plugin("inverse-network", settings={"steps": 2000}),
    Plugin("gradient-norm"),
    Plugin("candidate-match", settings={"candidates": CANDIDATES}),
    Plugin(NASTY, settings={"note": '"><img src=x onerror=alert(3)>'}),
)
#: By epsilon. The first one is below what the attack reaches, as if the noise were wrong.
BOUNDS = {8.0: 0.2, 200.0: 0.52}
GOALS = {"gradient-norm": "labels", "candidate-match": "candidates"}


def gaussian(epsilon: float) -> Plugin:
    return Plugin("gaussian", settings={"epsilon": epsilon, "delta": 1e-5}, told={"epsilon": epsilon})


NOPEEK = Plugin("nopeek", settings={"weight": 0.5}, told={"weight": 0.5})
DEEPER = Plugin("deeper-cut", settings={"by": 1}, moves_only=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """A deployment of the invented run: how it is cut and defended, and what comes of it."""

    mode: str
    base: tuple[str, ...]
    defense: tuple[Plugin, ...] = ()
    labels: str = "sent"
    cuts: tuple[str, ...] = ()
    accuracy: float = 0.84
    shield: float = 1.0
    head: str = "trained"
    epsilon: float | None = None
    run: bool = True
    profile: str = "head-known"
    adaptive: bool = True
    dataset: str = "faces"
    lr: float = 0.02


CASES = (
    Case("vanilla", ("conv1",)),
    Case("vanilla", ("conv2",), accuracy=0.845),
    Case("vanilla", ("fc1",), accuracy=0.838),
    Case("vanilla", ("conv1",), (gaussian(8),), accuracy=0.53, shield=0.02, epsilon=8),
    Case("vanilla", ("conv1",), (gaussian(200),), accuracy=0.775, shield=0.55, epsilon=200),
    Case("vanilla", ("conv2",), (gaussian(200),), accuracy=0.807, shield=0.22, epsilon=200),
    Case("vanilla", ("conv2",), (gaussian(200),), accuracy=0.781, shield=0.16, epsilon=200, head="frozen"),
    Case("vanilla", ("conv1",), (NOPEEK,), accuracy=0.826, shield=0.83),
    Case("vanilla", ("conv2",), (NOPEEK, gaussian(200)), accuracy=0.79, shield=0.18, epsilon=200),
    Case("vanilla", ("conv2",), (DEEPER,), cuts=("fc1",), accuracy=0.838),
    Case("vanilla", ("conv2",), labels="server", accuracy=0.845),
    Case("u-shaped", ("conv1", "fc2"), labels="client", accuracy=0.841),
    Case("u-shaped", ("conv2", "fc2"), labels="client", accuracy=0.836),
    Case("u-shaped", ("conv2", "fc2"), (gaussian(200),), labels="client", accuracy=0.798, shield=0.24, epsilon=200),
    Case("splitfed", ("conv1",), accuracy=0.815),
    Case("splitfed", ("conv1",), (Plugin(NASTY),), accuracy=0.80, shield=0.9, run=False),
    Case("centralized", ()),
)


def cells(case: Case, seed: int) -> Iterator[Cell]:
    training = dataclasses.asdict(
        Training(epochs=10, batch_size=16, head=case.head, optimizer={"name": "sgd", "lr": case.lr})  # type: ignore[arg-type]
    )
    for attack in ATTACKS:
        yield Cell(
            data={
                "name": case.dataset,
                "source": {},
                "clients": 2,
                "partition": "iid",
                "train": 104,
                "test": 48,
                "aux": 24,
                "victims": {"member": VICTIMS, "query": VICTIMS},
                "digest": "89ab45cd01ef2367",
            },
            model={"name": "lenet"},
            mode=case.mode,
            labels=case.labels,
            base=case.base,
            cuts=case.cuts or case.base,
            defense=case.defense,
            training=training,
            attack=attack,
            goal=GOALS.get(attack.name, "inputs"),
            active=False,
            profile=case.profile,
            adaptive=case.adaptive,
            seed=seed,
        )
