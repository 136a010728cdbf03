"""Which images to label next: those that stand for many that are not labelled, some that a trained model is unsure about, some at random.

While labels are few, typical images teach more than doubtful ones (TypiClust, Hacohen et al., ICML 2022). In segmentation random images
are hard to beat (nnActive, TMLR 2025), and were not beaten here: half of every choice is random. Doubts of a model that itself learnt
from few labels made the choice worse where it was measured (``docs/next.md``): only those of a trained run are listened to, blurred by
noise (ClaSP-PE, TMLR 2026), with categories taking turns, and for no more than every second image that is not random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maskwright.methods.curate.features import Features
from maskwright.methods.curate.quick import answers
from maskwright.nets.quick_segmenter import QuickSegmenter

Why = Literal["typical", "unsure", "random"]

RANDOM = 0.5
"""Share of a choice that is drawn at random. More than the quarter of TypiClust's users: where it was measured, typical images taught as
much as random ones, or a point of Dice less."""

STRATIFIED = 2 / 3
"""Share of the unsure images for which the categories take turns."""

SHARPNESS = 3.0
"""β of the Gumbel noise on scores: large is greedy, small is random."""

ASKED = 2000
"""Images, drawn at random, that the model is asked about, at most: the best of 2,000 are as good as the best of all."""

NEIGHBOURS = 20
"""By whose likeness a typical image is told, at most (TypiClust)."""

_CHUNK = 256

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ImageChoice:
    """One image.

    Attributes:
        place: in the dataset.
        why: how it was found.
        doubt: how unsure the model is there, as the share of images that it is surer about, 0..1; None where it was not asked.
        nearest: the labelled or chosen image that is most alike, -1 where there is none.
        likeness: their cosine, -1..1.
        category: that the model sees most of; 0 for none.
    """

    place: int
    why: Why
    doubt: float | None
    nearest: int
    likeness: float
    category: int


@dataclass(frozen=True)
class Doubts:
    """How unsure a model is.

    Attributes:
        places: (M,) of the images that it was asked about.
        scores: (M,) larger is less sure.
        categories: (M,) what it sees most of in each; 0 for nothing.
    """

    places: NDArray[np.int64]
    scores: NDArray[np.float64]
    categories: NDArray[np.int64]


def vectors_of(features: Features) -> Vectors:
    """(N, D) of unit length, one for each image: mean and deviation of the coarsest features over the image, standardised."""
    parts = []
    for start in range(0, len(features), _CHUNK):
        low = features.load_low(slice(start, start + _CHUNK)).flatten(2)
        parts.append(np.concatenate([low.mean(2).numpy(), low.std(2).numpy()], 1))
    vectors = np.concatenate(parts)
    vectors = (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-6)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def choose(
    vectors: Vectors,
    labelled: NDArray[np.int64],
    candidates: NDArray[np.int64],
    count: int,
    *,
    groups: NDArray[np.int64],
    doubts: Doubts | None = None,
    seed: int = 0,
    random_share: float = RANDOM,
) -> list[ImageChoice]:
    """Choose images to label, the most worth first.

    Args:
        vectors: (N, D), see :func:`vectors_of`.
        labelled: places of images that have labels.
        candidates: places to choose from.
        count: how many; fewer where there are fewer.
        groups: (N,); an image of a group that has labels, or was chosen, comes only after all others.
        doubts: a model's; half of what is not random is chosen by them then.
        seed: of everything drawn.
        random_share: 0..1 of the choice that is drawn at random.
    """
    generator = np.random.default_rng([seed, 6])
    picker = _Picker(vectors, labelled, candidates, groups)
    count = min(count, len(candidates))
    at_random = round(count * random_share)
    found = _typical(picker, count - at_random, generator)
    if doubts is not None:
        found = _in_turn(_unsure(picker, doubts, generator), found)
    by_chance = _at_random(picker, generator)
    # The random ones are spread over the list: whoever stops half-way has labelled as many of them, in proportion.
    turns = set(np.linspace(1, count, at_random, endpoint=False).astype(int).tolist()) if at_random else set()
    choices: list[ImageChoice] = []
    for number in range(count):
        first, second = (by_chance, found) if number in turns else (found, by_chance)
        choice = next(first, None) or next(second, None)
        if choice is None:
            break
        choices.append(choice)
    return choices


def doubts_of(
    network: QuickSegmenter,
    features: Features,
    candidates: NDArray[np.int64],
    *,
    also: NDArray[np.floating] | None = None,
    seed: int = 0,
    most: int = ASKED,
) -> Doubts:
    """How unsure a quick segmenter is about some of the candidates.

    The score is the mean entropy over an image, divided by the share of it that is foreground: else images with large objects, which have
    long borders, would always be the least sure.

    Args:
        also: (M, C, g, g) of another model about ``asked_about(candidates, seed, most)``; both count alike.
    """
    places = asked_about(candidates, seed, most)
    scores, categories = np.empty(len(places)), np.empty(len(places), np.int64)
    for which, probability in answers(network, features.subset(places)):
        p = probability.numpy()
        if also is not None:
            p = (p + also[which]) / 2
        entropy = -(p * np.log(p + 1e-6)).sum(1).mean((1, 2))
        shares = p.mean((2, 3))[:, 1:]
        scores[which] = entropy / (shares.sum(1) + 0.02)
        categories[which] = np.where(shares.max(1) > 0.005, 1 + shares.argmax(1), 0)
    return Doubts(places, scores, categories)


def asked_about(candidates: NDArray[np.int64], seed: int, most: int = ASKED) -> NDArray[np.int64]:
    """The candidates that a model is asked about, in their order."""
    if len(candidates) <= most:
        return candidates
    return np.sort(np.random.default_rng([seed, 7]).choice(candidates, most, replace=False))


class _Picker:
    """What is taken, and how alike everything else is to it."""

    def __init__(
        self, vectors: Vectors, labelled: NDArray[np.int64], candidates: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> None:
        self.vectors, self.candidates, self.groups = vectors, candidates, groups
        self.likeness = np.full(len(vectors), -1.0, np.float32)
        self.nearest = np.full(len(vectors), -1, np.int64)
        self.open = np.zeros(len(vectors), bool)
        self.open[candidates] = True
        self.seen_groups: set[int] = set(groups[labelled].tolist())
        for start in range(0, len(labelled), _CHUNK):
            some = labelled[start : start + _CHUNK]
            alike = vectors @ vectors[some].T
            best = alike.argmax(1)
            self._closer(alike[np.arange(len(vectors)), best], some[best])

    def fresh(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some places that are open; of groups that are new, where there are any."""
        places = places[self.open[places]]
        new = ~np.isin(self.groups[places], list(self.seen_groups))
        return places[new] if new.any() else places

    def take(self, place: int, why: Why, doubt: float | None = None, category: int = 0) -> ImageChoice:
        choice = ImageChoice(place, why, doubt, int(self.nearest[place]), float(self.likeness[place]), category)
        self.open[place] = False
        self.seen_groups.add(int(self.groups[place]))
        self._closer(self.vectors @ self.vectors[place], np.full(len(self.vectors), place))
        return choice

    def _closer(self, likeness: Vectors, of: NDArray[np.int64]) -> None:
        nearer = likeness > self.likeness
        self.likeness[nearer], self.nearest[nearer] = likeness[nearer], of[nearer]


def _at_random(picker: _Picker, generator: np.random.Generator) -> Iterator[ImageChoice]:
    order = generator.permutation(picker.candidates)
    while len(places := picker.fresh(order)):
        yield picker.take(int(places[0]), "random")


def _typical(picker: _Picker, count: int, generator: np.random.Generator) -> Iterator[ImageChoice]:
    """Of each cluster that holds nothing labelled, the image with the most neighbours (TypiClust)."""
    candidates = picker.candidates
    if len(candidates) > ASKED:
        candidates = np.sort(generator.choice(candidates, ASKED, replace=False))
    vectors = picker.vectors[candidates]
    clusters = _clusters(vectors, min(count + len(picker.seen_groups), max(1, len(candidates) // 2)), generator)
    typical = _typicality(vectors, clusters)
    while len(places := picker.fresh(candidates)):
        at = np.searchsorted(candidates, places)
        # A cluster counts by what it has that is not alike to anything taken.
        weight = np.bincount(clusters[at], weights=1 - picker.likeness[places], minlength=int(clusters.max()) + 1)
        inside = at[clusters[at] == weight.argmax()]
        likeness = picker.likeness[candidates[inside]]
        inside = inside[likeness <= np.median(likeness)]
        yield picker.take(int(candidates[inside[typical[inside].argmax()]]), "typical")


def _typicality(vectors: Vectors, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) mean cosine of each vector with its nearest neighbours in its own cluster."""
    typical = np.zeros(len(vectors))
    for cluster in np.unique(clusters):
        own = np.flatnonzero(clusters == cluster)
        neighbours = min(NEIGHBOURS, len(own) - 1)
        if neighbours:
            # The largest is the vector with itself.
            alike = np.sort(vectors[own] @ vectors[own].T, 1)[:, -neighbours - 1 : -1]
            typical[own] = alike.mean(1)
    return typical


def _in_turn(first: Iterator[ImageChoice], second: Iterator[ImageChoice]) -> Iterator[ImageChoice]:
    """One of each; of the other alone where one has ended."""
    while True:
        ended = True
        for each in (first, second):
            if (choice := next(each, None)) is not None:
                ended = False
                yield choice
        if ended:
            return


def _clusters(vectors: Vectors, count: int, generator: np.random.Generator, rounds: int = 15) -> NDArray[np.int64]:
    """Spherical k-means from k-means++: the cluster of each of (N, D) unit vectors."""
    first = [int(generator.integers(len(vectors)))]
    apart = 1 - vectors @ vectors[first[0]]
    while len(first) < count:
        weight = np.maximum(apart, 1e-6).astype(np.float64)
        first.append(int(generator.choice(len(vectors), p=weight / weight.sum())))
        apart = np.minimum(apart, 1 - vectors @ vectors[first[-1]])
    centres = vectors[first]
    for _ in range(rounds):
        own = (vectors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, own, vectors)
        empty = np.linalg.norm(sums, axis=1) < 1e-6
        sums[empty] = centres[empty]
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    return (vectors @ centres.T).argmax(1)


def _unsure(picker: _Picker, doubts: Doubts, generator: np.random.Generator) -> Iterator[ImageChoice]:
    """The least sure that are least alike to what is taken, with noise; two of three times a category has its turn."""
    logs = np.log(doubts.scores + 1e-6)
    scores = (logs - logs.mean()) / max(1e-6, float(logs.std()))
    scores = scores + generator.gumbel(size=len(scores)) / SHARPNESS
    rank = doubts.scores.argsort().argsort() / max(1, len(doubts.scores) - 1)
    # The spread of novelty at the beginning is its unit: it shrinks as images are taken.
    spread = max(0.1, float(picker.likeness[doubts.places].std()))
    names = [category for category in np.unique(doubts.categories).tolist() if category]
    turn = 0
    while len(places := picker.fresh(doubts.places)):
        at = np.searchsorted(doubts.places, places)
        if len(names) > 1 and generator.random() < STRATIFIED:
            own = at[doubts.categories[at] == names[turn % len(names)]]
            turn += 1
            at = own if len(own) else at
        worth = scores[at] + (1 - picker.likeness[doubts.places[at]]) / spread
        best = int(at[worth.argmax()])
        yield picker.take(int(doubts.places[best]), "unsure", float(rank[best]), int(doubts.categories[best]))
