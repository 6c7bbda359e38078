# SPDX-License-Identifier: Apache-2.0
"""What label attacks share: the rows of victims and of known samples, and scores for classes without any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splitguard.building.embeddings import embeddings
from splitguard.engine.view import View
from splitguard.errors import MissingKnowledge

__all__ = ["Anchored"]


@dataclass(frozen=True)
class Anchored:
    """Per-sample gradients at the cut, or what the label owner is given there, flattened, in float64.

    Attributes:
        victims: (N, D), in the order of ``view.ids``.
        known: (A, D), of the samples whose labels the attacker knows.
        labels: (A,), those labels.
        classes: K.
    """

    victims: Tensor
    known: Tensor
    labels: Tensor
    classes: int

    @classmethod
    def of(cls, view: View, what: Literal["gradients", "activations"] = "gradients") -> Anchored:
        """Reads them from the context of ``view``; a row sent more than once counts as sent last.

        An attacker who knows the defense undoes what it can of what was done to the gradients; see `Defense.restored`.

        Args:
            view: of one client's epoch.
            what: what the label owner returned; or what it is given by the deployed network, see `embeddings`.

        Raises:
            MissingKnowledge: by name, or if the view knows no label at all.
        """
        rows, known = view.context, view.known
        if len(known.ids) == 0:
            raise MissingKnowledge("this view holds no row whose label is known; a label attack needs one a class")

        def read(ids: Tensor) -> Tensor:
            values = view.label_grad(rows.last(ids)) if what == "gradients" else embeddings(view, ids)
            return values.flatten(1).double()

        victims, told = read(view.ids), read(known.ids)
        if what == "gradients" and view.adaptive and view.defense.overrides("restored"):
            victims, told = (view.defense.restored(values, told, known.labels) for values in (victims, told))
        return cls(victims, told, known.labels, view.classes)

    def mean_of_class(self, values: Tensor) -> Tensor:
        """(K, *shape): the mean over each class of one value a known sample (A, *shape); NaN where none is known."""
        sums = values.new_zeros(self.classes, *values.shape[1:]).index_add(0, self.labels, values)
        return sums / self._counts.view(-1, *[1] * (values.ndim - 1))

    def complete(self, scores: Tensor) -> Tensor:
        """(N, K): columns of classes without a known sample (NaN) become minus the best of the others.

        For cosines that guesses such a class where a gradient points away from every known one.
        """
        best = scores.nan_to_num(-torch.inf).max(1, keepdim=True).values
        return torch.where(scores.isnan(), -best, scores)

    @property
    def _counts(self) -> Tensor:
        return torch.bincount(self.labels, minlength=self.classes).double()
