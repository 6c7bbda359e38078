# SPDX-License-Identifier: Apache-2.0
"""What the task does not ask for: a probe reads the fine class off smashed data made for coarse labels."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, MissingKnowledge, Party, Sees, Threat, View
from splitguard.building.inversion import Sent
from splitguard.metrics import balanced_accuracy

Array = npt.NDArray[Any]
#: Inverse strengths of the penalty that logistic regression is tried with.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
#: Auxiliary rows without which nothing can be learned and tested.
ENOUGH = 10
#: Rows asked twice to see whether the pipeline draws anything; a few, since a discrete draw often repeats itself.
PROBED = 16
#: Rows a step of the network.
BATCH = 200


@ATTACKS.add("attribute")
@dataclass(kw_only=True)
class Attribute(Attack):
    """A classifier from smashed data to the attribute, trained on what the pipeline answers to auxiliary rows.

        p = argmin over probes of  mean cross entropy(p(q(x)), a),     scores = log p(z)

    with q the deployed pipeline, defense included, a the attribute of an auxiliary row x and z what was sent of a
    victim: its last release, or the mean of all where one head made them, q then being averaged alike. Probes are
    logistic regression at four strengths and a network with one hidden layer; the best by balanced accuracy on a fifth
    of the auxiliary rows is fitted again to all of them. Smashed data are first turned onto their principal components.

    An attacker that is shown the victims' labels rules out every attribute that no auxiliary row of that label has.
    One that is adaptive learns from several answers to each row where the defense draws noise; and where the defense
    changes labels it weighs each attribute by how likely it makes the label that was shown, or, where the defense does
    not say how labels are drawn, reads none.

    Args:
        components: principal components kept, at most.
        hidden: width of the network's hidden layer; 0 leaves the network out.
        draws: answers to each auxiliary row, where they differ.
        aux: auxiliary rows, at most.

    Source: Song, Shmatikov, Overlearning reveals sensitive attributes, ICLR 2020: the probe on a layer's output.
    Differences: smashed data as released, several releases, the label as a further clue, the choice of the probe.
    """

    components: int = 256
    hidden: int = 128
    draws: int = 4
    aux: int = 2000

    goal: ClassVar[Goal] = Goal.ATTRIBUTE
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.QUERY | Sees.AUX, (Party.SERVER,), uses=Sees.LABELS)
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Song, Shmatikov, Overlearning reveals sensitive attributes, ICLR 2020"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"components": 32, "hidden": 16})

    def __post_init__(self) -> None:
        for name, least in (("components", 1), ("hidden", 0), ("draws", 1), ("aux", ENOUGH)):
            if getattr(self, name) < least:
                raise BadSetting(f"attribute: {name} must be at least {least}; got {getattr(self, name)!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, A), log probabilities up to a constant a victim."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        known = view.aux[torch.randperm(len(view.aux), generator=generator)[: self.aux]]
        values = view.attribute_classes
        if known.attributes is None or values is None:
            raise MissingKnowledge("the auxiliary rows have no attributes; see data: coarse")
        if len(known) < ENOUGH:
            raise BadSetting(f"attribute needs at least {ENOUGH} auxiliary rows; got {len(known)}")
        # The probes work in main memory, whatever the deployed pipeline works on.
        attributes, labels = known.attributes.cpu(), known.labels.cpu()
        sent = Sent.of(view)
        answers, queries = self._ask(view, known.inputs, sent.times, generator)
        turn = _Turn.of(answers[0], self.components)
        inputs = [turn(a) for a in answers]
        seen = view.releases.last(view.ids).labels
        seen = None if seen is None else seen.cpu()
        changed = view.adaptive and view.defense.overrides("on_labels")
        told = _told(labels, attributes, view.classes, values)
        held = max(len(known) // 5, 2)
        draw = int(torch.randint(2**31, (1,), generator=generator))
        tries = [_Probe(strength=c) for c in STRENGTHS]
        tries += [_Probe(hidden=self.hidden, draw=draw)] if self.hidden else []
        reached = []
        for probe in tries:
            probe.fit([x[held:] for x in inputs], attributes[held:])
            scores = probe.scores(inputs[0][:held], values)
            scores = scores if seen is None or changed else scores + _log(told)[labels[:held]]
            reached.append(balanced_accuracy(scores.argmax(1), attributes[:held]) or 0.0)
        best = tries[int(np.argmax(reached))]
        best.fit(inputs, attributes)
        scores = best.scores(turn(sent.smashed), values)
        law = view.defense.label_law() if changed else None
        if seen is not None and (law is not None or not changed):
            scores = scores + _log(told if law is None else law.T @ told)[seen]
        return Guess(
            view.ids,
            labels=scores.argmax(1),
            scores=scores,
            budget=Budget(
                steps=sum(p.steps for p in tries), queries=queries, aux=len(known), seconds=time.perf_counter() - began
            ),
            converged=best.converged,
            settings={"probe": str(best), "aux_balanced_accuracy": max(reached), "releases_averaged": sent.times},
        )

    def _ask(self, view: View, inputs: Tensor, times: int, generator: torch.Generator) -> tuple[list[Tensor], int]:
        """What the pipeline answers, the mean of ``times`` answers each, as often as there is something to learn."""

        def mean(count: int) -> Tensor:
            return sum((view.query(inputs, generator) for _ in range(count - 1)), view.query(inputs, generator)) / count

        probe = inputs[: PROBED if view.adaptive else 0]
        noisy = view.adaptive and not torch.equal(view.query(probe, generator), view.query(probe, generator))
        count, draws = (times, self.draws) if noisy else (1, 1)
        return [mean(count) for _ in range(draws)], 2 * len(probe) + count * draws * len(inputs)


@dataclass(frozen=True)
class _Turn:
    """Centres smashed data and turns them onto principal components (P, D), scaled as one."""

    mean: Tensor
    axes: Tensor
    scale: float

    @classmethod
    def of(cls, smashed: Tensor, components: int) -> _Turn:
        rows = smashed.flatten(1).double()
        mean = rows.mean(0)
        _, sizes, axes = torch.linalg.svd(rows - mean, full_matrices=False)
        told = int((sizes > 1e-9 * sizes[0]).sum())
        kept = axes[: max(min(told, components), 1)]  # one that tells nothing, where all rows are alike
        spread = float(((rows - mean) @ kept.T).std())
        return cls(mean, kept, spread or 1.0)

    def __call__(self, smashed: Tensor) -> Array:
        turned: Array = (((smashed.flatten(1).double() - self.mean) @ self.axes.T) / self.scale).cpu().numpy()
        return turned


class _Probe:
    """Logistic regression, or a network with one hidden layer."""

    def __init__(self, *, strength: float = 0.0, hidden: int = 0, draw: int = 0) -> None:
        self._strength, self._hidden, self._draw = strength, hidden, draw
        self._model: Any = None
        self.steps, self.converged = 0, False

    def __str__(self) -> str:
        return f"network of {self._hidden}" if self._hidden else f"logistic regression, strength {self._strength:g}"

    def fit(self, inputs: list[Array], attributes: Tensor) -> None:
        """Learns from several answers to each row."""
        rows = len(inputs) * len(attributes)
        self._model = (
            MLPClassifier(
                (self._hidden,), alpha=1e-2, batch_size=min(BATCH, rows), max_iter=100, random_state=self._draw
            )
            if self._hidden
            else LogisticRegression(C=self._strength, max_iter=200)
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self._model.fit(np.concatenate(inputs), np.tile(attributes.numpy(), len(inputs)))
        self.converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
        batches = math.ceil(rows / min(rows, BATCH)) if self._hidden else 1  # an iteration of the network is a pass
        self.steps += int(np.max(self._model.n_iter_)) * batches

    def scores(self, inputs: Array, values: int) -> Tensor:
        """(N, A) log probabilities; an attribute that was never seen comes last."""
        likely = np.log(np.maximum(self._model.predict_proba(inputs), 1e-30))
        out = torch.full((len(inputs), values), -100.0, dtype=torch.float64)
        out[:, torch.from_numpy(self._model.classes_)] = torch.from_numpy(likely)
        return out


def _told(labels: Tensor, attributes: Tensor, classes: int, values: int) -> Tensor:
    """(K, A): the share of each label among auxiliary rows of an attribute; even for an attribute without rows."""
    pairs = torch.zeros(classes, values, dtype=torch.float64)
    pairs.index_put_((labels, attributes), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    pairs[:, pairs.sum(0) == 0] = 1
    return pairs / pairs.sum(0)


def _log(shares: Tensor) -> Tensor:
    """Logarithms, -1000 for what does not occur: no probe is as sure of anything."""
    return torch.where(shares > 0, shares.log(), -1000.0)
