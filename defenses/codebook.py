# SPDX-License-Identifier: Apache-2.0
"""Each row's smashed data replaced by a word of a public codebook, answered privately once and remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitguard.api import (
    DEFENSES,
    BadSetting,
    Context,
    Defense,
    Deployment,
    Guarantee,
    NotSupported,
    Phase,
    Spec,
    generator,
)
from splitguard.building.rows_alone import adversary, aux_smashed, label_clause, view_holes
from splitguard.building.words import Book, axes_of
from splitguard.errors import one_of
from splitguard.privacy.subsets import SubsetResponse

__all__ = ["Codebook"]

Space = Literal["discriminant", "plain"]

#: Numbers of words that ``auto`` chooses among, with the number of classes, as far as there are auxiliary rows.
WORDS = (2, 4, 8, 16, 32, 64, 128, 256)
#: Answers, at least, by which they are compared.
DRAWS = 4000


@DEFENSES.add("codebook")
@dataclass(kw_only=True)
class Codebook(Defense):
    """Sends the server's best guess at a row's word, from a private answer drawn once and the same ever after.

        w = argmin_w ||A z - A c_w||,    S ~ P(. | w),    sent = sum_w P(w | S) c_w

    with the words c of k-means over the smashed data z of auxiliary rows in the coordinates A, S the answer of subset
    selection (see `splitguard.privacy.subsets.SubsetResponse`; k-ary randomised response where epsilon is large), and
    the mean of the words under the answer, which is computed from S and public numbers alone. With ``parts`` the
    coordinates are cut into so many stretches of equal length, each with words of its own and an equal share of
    epsilon.

    Along the channel ``inputs`` this is pure epsilon, delta 0, replace-one: for a row's own messages, for the server's
    whole view, and for a query, whatever the number of epochs, as all of a row's messages are one answer. It asks for a
    head that is public and frozen and for layers that do not mix rows, and refuses anything else: a trained head would
    be taught by gradients of an answer that no longer changes.

    Args:
        epsilon: above 0, up to 30 a part (rarer answers cannot be drawn with floating point numbers).
        words: k of each part, 2 or more; ``auto``: the number of classes, or a power of 2 up to 256, for which what is
            sent of auxiliary rows tells their classes best, or, in plain coordinates, lies nearest to their smashed
            data. Nothing private is used.
        space: the coordinates A: ``discriminant``, those of Fisher's linear discriminant between the classes of the
            auxiliary rows, so that words tell classes apart first (see `splitguard.building.words.axes_of`); or
            ``plain``, for auxiliary rows without labels.
        parts: 1 or more. One answer among k^2 words is right more often than two, each among k at half of epsilon: more
            parts are for auxiliary rows too few for that many words.

    Raises:
        BadSetting: for settings outside their range; from `bind`, for fewer auxiliary rows than words, or more parts
            than coordinates.
        NotSupported: from `bind`, for a head that is trained or layers that mix rows.

    Source: none; vector quantisation followed by local randomisation. The answer: Ye, Barg, Optimal schemes for
    discrete distribution estimation under locally differential privacy, IEEE Transactions on Information Theory 2018.
    """

    epsilon: float = 8.0
    words: int | Literal["auto"] = "auto"
    parts: int = 1
    space: Space = "discriminant"
    _books: list[Book] = field(default_factory=list, init=False, repr=False, compare=False)
    _answers: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _guarantee: Guarantee | None = field(default=None, init=False, repr=False, compare=False)

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Ye, Barg, Optimal schemes for discrete distribution estimation under LDP, IEEE TIT 2018"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    breakers: ClassVar[tuple[Spec, ...]] = ("white-box-inversion", "inverse-network", "candidate-match")

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise BadSetting(f"codebook: parts must be 1 or more; got {self.parts}")
        least = 2 if self.words == "auto" else self.words
        if isinstance(least, str):
            raise BadSetting(f"codebook: words is a whole number or auto; got {self.words!r}")
        one_of("codebook", "space", self.space, get_args(Space))
        SubsetResponse(least, self.epsilon / self.parts)

    def bind(self, deployment: Deployment) -> None:
        """Makes the words, of auxiliary rows, and states what is guaranteed."""
        if holes := view_holes(deployment):
            raise NotSupported(
                f"codebook: {'; '.join(holes)}. Use train: {{head: frozen}} and a head without such layers"
            )
        chunks = list(aux_smashed(deployment))
        rows = torch.cat(chunks).flatten(1).double() if chunks else torch.empty(0, 1)
        if self.parts > rows.shape[1]:
            raise BadSetting(f"codebook: {self.parts} parts of {rows.shape[1]} coordinates; give fewer parts")
        labels = deployment.aux.labels if self.space == "discriminant" else None
        parts = [(part, axes_of(part, labels)) for part in torch.tensor_split(rows, self.parts, dim=1)]
        distinct = min(len(torch.unique(part @ axes, dim=0)) for part, axes in parts)
        several = [k for k in sorted({*WORDS, deployment.classes}) if k <= distinct]
        wanted = several if self.words == "auto" else [self.words]
        if not wanted or max(wanted) > distinct:
            raise BadSetting(
                f"codebook: {len(rows)} auxiliary rows, {distinct} of them distinct, make no codebook of "
                f"words={self.words}; it takes a row a word, and for auto {WORDS[0]} rows or more"
            )
        tried = {k: [Book.of(part, axes, k) for part, axes in parts] for k in wanted}
        stretches = [part for part, _ in parts]
        error = {k: self._error(stretches, books, labels) for k, books in tried.items()} if len(tried) > 1 else {}
        self._books = tried[min(tried, key=lambda k: error.get(k, 0.0))]
        self._guarantee = Guarantee(
            channel="inputs",
            epsilon_rows=self.epsilon,
            epsilon=self.epsilon,
            epsilon_query=self.epsilon,
            delta=0.0,
            adjacency="replace-one",
            sensitivity=None,
            T=max(deployment.releases.get(Phase.TRAINING, 0), 1),
            adversary=adversary(deployment.mode),
            mechanism=(
                f"{self.parts} x {len(self._books[0].words)} words of a public codebook and {self._response.told}, "
                "answered once for each row and remembered"
            ),
            exclusions=(label_clause(deployment.labels),),
        )

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): of each row the remembered answer, or for its first time one drawn from ``generator``."""
        ids = ctx.ids.tolist()
        new = [place for place, row in enumerate(ids) if row not in self._answers]
        if new:
            drawn = self._draw(self._nearest(smashed[new]), generator)
            self._answers |= {ids[place]: answer for place, answer in zip(new, drawn, strict=True)}
        return _straight_through(self._sent(torch.stack([self._answers[row] for row in ids]), smashed), smashed)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """(N, *cut1): the mean over answers; its gradient is passed straight through."""
        words = self._nearest(smashed)
        beliefs = self._response.expected_belief()
        parts = [beliefs[words[:, i]] @ book.words for i, book in enumerate(self._books)]
        return _straight_through(torch.cat(parts, dim=1), smashed)

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """(N, *cut1): a fresh answer for each row; its gradient is passed straight through."""
        return _straight_through(self._sent(self._draw(self._nearest(smashed), generator), smashed), smashed)

    def privacy(self) -> tuple[Guarantee, ...]:
        """One statement about the inputs."""
        return () if self._guarantee is None else (self._guarantee,)

    @property
    def _response(self) -> SubsetResponse:
        if not self._books:
            raise NotSupported("codebook: words are made for a deployment; call bind before anything is sent")
        return SubsetResponse(len(self._books[0].words), self.epsilon / self.parts)

    def _nearest(self, smashed: Tensor) -> Tensor:
        """(N, parts) int64: the word of each part; rows that are not finite get the first."""
        self._response  # noqa: B018  # says so where nothing is bound
        rows = smashed.detach().flatten(1).double().cpu().nan_to_num()
        stretches = torch.tensor_split(rows, self.parts, dim=1)
        return torch.stack([book.nearest(part) for part, book in zip(stretches, self._books, strict=True)], dim=1)

    def _draw(self, words: Tensor, generator: torch.Generator) -> Tensor:
        """(N, parts, d): an answer to each word."""
        return torch.stack([self._response.draw(words[:, i], generator) for i in range(self.parts)], dim=1).cpu()

    def _sent(self, answers: Tensor, like: Tensor) -> Tensor:
        """(N, *cut1): the mean word under each answer (N, parts, d)."""
        parts = [self._response.belief(answers[:, i]) @ book.words for i, book in enumerate(self._books)]
        return torch.cat(parts, dim=1).to(like).view(like.shape)

    def _error(self, stretches: Sequence[Tensor], books: Sequence[Book], labels: Tensor | None) -> float:
        """How badly what would be sent of auxiliary rows serves.

        With labels, the share that a nearest-mean classifier gets wrong, fitted to what is sent of every other row and
        tried on the rest; without, the mean squared distance of what is sent from the row. Few rows are answered
        several times over, so that the choice hangs on the words and not on the answers.
        """
        count = len(stretches[0])
        again = math.ceil(DRAWS / count)
        sent = []
        for number, (rows, book) in enumerate(zip(stretches, books, strict=True)):
            response = SubsetResponse(len(book.words), self.epsilon / self.parts)
            answers = response.draw(book.nearest(rows).repeat(again), generator(0, "codebook", number))
            sent.append((response.belief(answers) @ book.words, rows.repeat(again, 1), book.axes))
        if labels is None:
            return sum(float((got - rows).square().sum(1).mean()) for got, rows, _ in sent)
        shown = torch.cat([got @ axes for got, _, axes in sent], dim=1)
        truth, fitted = labels.repeat(again), (torch.arange(count) % 2 == 0).repeat(again)
        classes = torch.nn.functional.one_hot(truth[fitted], int(labels.max()) + 1).to(shown)
        means = classes.T @ shown[fitted] / classes.sum(0).clamp(min=1)[:, None]
        return float((torch.cdist(shown[~fitted], means).argmin(1) != truth[~fitted]).double().mean())

    def state_dict(self) -> dict[str, Any]:
        """The words, every answer given, and the guarantee; empty before `bind`."""
        if self._guarantee is None:
            return {}
        answers = list(self._answers.values())
        size = (0, self.parts, self._response.size)
        return {
            "ids": torch.tensor(list(self._answers), dtype=torch.int64),
            "answers": torch.stack(answers) if answers else torch.empty(size, dtype=torch.int64),
            "guarantee": self._guarantee.as_dict(),
            **{f"words/{i}": book.words for i, book in enumerate(self._books)},
            **{f"axes/{i}": book.axes for i, book in enumerate(self._books)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; a row that was answered keeps its answer."""
        if not state:
            return
        self._books = [Book(state[f"words/{i}"], state[f"axes/{i}"]) for i in range(self.parts)]
        self._answers = dict(zip(state["ids"].tolist(), state["answers"], strict=True))
        self._guarantee = Guarantee.from_dict(state["guarantee"])


def _straight_through(value: Tensor, smashed: Tensor) -> Tensor:
    """``value`` with the gradient of ``smashed``."""
    return value.to(smashed).view(smashed.shape) + (smashed - smashed.detach())
