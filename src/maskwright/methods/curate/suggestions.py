"""What to label next, in words and files: the images in order, the kind of label for each, the reason, and a contact sheet."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.files import write_atomic
from maskwright.data.findings import source_of
from maskwright.data.labels import IGNORE, Kind
from maskwright.data.pictures import thumbnail
from maskwright.engine.report import Picture, Report
from maskwright.errors import DataError
from maskwright.methods.curate.choosing import Doubts, ImageChoice, asked_about, choose, doubts_of, vectors_of
from maskwright.methods.curate.costs import Costs
from maskwright.methods.curate.kinds import LEAST, KindChoice, kind_for, measure, worth
from maskwright.methods.curate.lists import NEXT, NEXT_FORMAT
from maskwright.methods.curate.material import Material, Stage, run_probabilities
from maskwright.methods.curate.quick import STEPS, answers, train_quick
from maskwright.methods.curate.regions import Map
from maskwright.methods.curate.targets import GRID, LOCATED
from maskwright.methods.semantic.predictor import SegmenterPredictor
from maskwright.nets.quick_segmenter import QuickSegmenter

PAGE = "report.html"

LEARNERS = 150
"""Labelled images that the small model learns from, at most; its doubts need no more."""

ASKED_OF_A_RUN = 400
"""Images that a run's model is asked about, at most: it is slower than a quick one."""

ENOUGH = 3
"""Labelled images of each category, from which on a small model can tell what is in an image."""


@dataclass(frozen=True)
class Suggestion:
    """An image to label.

    Attributes:
        id, image: of the dataset.
        kind: ``box``, ``point`` or ``mask``: what is worth most per second there.
        seconds: that this takes, by the costs.
        gain: what a second is expected to bring here, as a multiple of what it brings where boxes are drawn whose masks are right.
        why: ``typical``, ``unsure`` or ``random``.
        reason: in one sentence.
    """

    id: str
    image: str
    kind: str
    seconds: float
    gain: float
    why: str
    reason: str


@dataclass(frozen=True)
class NextResult:
    """What to label next.

    Attributes:
        suggestions: in the order in which they are worth labelling.
        labelled: images of the split that have labels which say where something is.
        candidates: those that have none.
        notes: how far the choice can be trusted.
    """

    suggestions: tuple[Suggestion, ...]
    labelled: int
    candidates: int
    notes: tuple[str, ...]


def suggest(
    material: Material,
    *,
    split: str,
    count: int,
    costs: Costs,
    model: SegmenterPredictor | None = None,
    seed: int = 0,
    stage: Stage | None = None,
) -> NextResult:
    """Choose images and kinds; see ``maskwright.api.next_labels``.

    Raises:
        DataError: nothing is left to label in the split, or files cannot be read.
    """
    dataset = material.dataset
    kinds = np.array([sample.labels.kind for sample in dataset])
    own = np.array([sample.split == split for sample in dataset])
    located = np.isin(kinds, LOCATED)
    labelled, candidates = np.flatnonzero(own & located), np.flatnonzero(own & ~located)
    if not len(candidates):
        splits = ", ".join(sorted({repr(sample.split) for sample in dataset}))
        what = "has no images" if not own.any() else "is labelled: every image says where something is"
        raise DataError([f"split {split!r} {what} (splits: {splits}); name another with --split"], source_of(dataset))
    network, doubts = None, None
    learners = labelled[(material.maps[labelled] != IGNORE).any((1, 2))]
    if _enough(material, learners):
        network = _train(material, learners, seed, stage)
        doubts = None if model is None else _ask(material, network, model, candidates, seed, stage)
    vectors = vectors_of(material.features)
    choices = choose(vectors, labelled, candidates, count, groups=material.groups, doubts=doubts, seed=seed)
    reliability = None if network is None else measure(material, learners[kinds[learners] == Kind.MASK], seed)
    suggestions = []
    for number, choice in enumerate(choices):
        seen = None if network is None else _seen(material, network, choice.place)
        kind = kind_for(material, choice.place, seen, costs, reliability, seed)
        suggestions.append(_suggestion(material, choice, kind, costs))
        if stage:
            stage("choosing kinds of label", number + 1, len(choices))
    notes = _notes(len(labelled), choices, reliability is not None, len(candidates), doubts)
    if model is not None and doubts is None:
        notes = (*notes, f"The run's model is not asked before each category is in {ENOUGH} labelled images.")
    return NextResult(tuple(suggestions), len(labelled), len(candidates), notes)


def write_suggestions(material: Material, result: NextResult, out: Path) -> None:
    """Write ``next.json`` and the page with the contact sheet into a folder, over those of before.

    Raises:
        DataError: the folder cannot be written, or images cannot be read.
    """
    dataset = material.dataset
    by_id = {sample.id: sample for sample in dataset}
    content = {"format": NEXT_FORMAT, "data": source_of(dataset), **asdict(result)}
    page = Report("What to label next", source_of(dataset)).text(" ".join(result.notes))
    pictures = [
        Picture(
            thumbnail(dataset.pixels(by_id[each.id]), 320),
            f"{number}. {each.id}: {each.kind}, {each.seconds:.0f} s. {each.reason}",
            f"image {each.id}",
        )
        for number, each in enumerate(result.suggestions, 1)
    ]
    page.pictures("In this order", "Number, image, kind of label, seconds that it takes, and why.", pictures)
    write_atomic(out / NEXT, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    page.save(out / PAGE)


def _enough(material: Material, labelled: NDArray[np.int64]) -> bool:
    """Whether every category is in enough labelled images."""
    if not len(labelled):
        return False
    present = [{int(c) for c in np.unique(material.maps[place])} for place in labelled.tolist()]
    return all(sum(category in each for each in present) >= ENOUGH for category in range(1, material.categories))


def _train(material: Material, labelled: NDArray[np.int64], seed: int, stage: Stage | None) -> QuickSegmenter:
    def told(done: int, total: int) -> None:
        if stage:
            stage("training a small model", done, total)

    part = material.features.subset(labelled)
    return train_quick(part, material.maps[labelled], material.categories, steps=STEPS, seed=seed, progress=told)


def _ask(
    material: Material,
    network: QuickSegmenter,
    model: SegmenterPredictor,
    candidates: NDArray[np.int64],
    seed: int,
    stage: Stage | None,
) -> Doubts:
    """Doubts of a run's model and the quick one together: high where either is unsure, and where they contradict each other."""
    places = asked_about(candidates, seed, ASKED_OF_A_RUN)
    part = material.dataset.with_samples([material.dataset[place] for place in places.tolist()])
    also = run_probabilities(model, part, material.features.cells, stage=stage)
    return doubts_of(network, material.features, candidates, also=also, seed=seed, most=ASKED_OF_A_RUN)


@torch.inference_mode()
def _seen(material: Material, network: QuickSegmenter, place: int) -> Map:
    """What the quick model sees in an image, on the grid of the maps."""
    _, probability = next(answers(network, material.features.subset(np.array([place])), GRID))
    return probability[0].argmax(0).numpy().astype(np.uint8)


def _suggestion(material: Material, choice: ImageChoice, kind: KindChoice, costs: Costs) -> Suggestion:
    sample = material.dataset[choice.place]
    gain = worth(kind.good) / kind.seconds * costs.of("box", kind.objects)
    return Suggestion(
        sample.id,
        sample.image,
        kind.kind,
        round(kind.seconds, 1),
        round(gain, 2),
        choice.why,
        _reason(material, choice, kind),
    )


def _reason(material: Material, choice: ImageChoice, kind: KindChoice) -> str:
    other = material.dataset[choice.nearest].id if choice.nearest >= 0 else None
    alike = f"of what has labels or comes before it, {other} is most like it ({choice.likeness:.2f})"
    alike = "nothing is labelled yet" if other is None else alike
    named = material.dataset.categories[choice.category] if choice.category else "nothing"
    first = {
        "typical": f"stands for many images; {alike}",
        "unsure": f"the model is less sure here than on {choice.doubt or 0:.0%} of the images, and sees {named}; {alike}",
        "random": "drawn at random, so that the labels stay a fair sample",
    }[choice.why]
    if kind.good is None:
        return f"{first}."
    if kind.kind == "mask":
        return f"{first}; SAM's masks of boxes and clicks would probably be wrong here."
    return f"{first}; SAM's mask of a {kind.kind} is good here with a probability of {kind.good:.0%}."


def _notes(
    labelled: int, choices: list[ImageChoice], measured: bool, candidates: int, doubts: Doubts | None
) -> tuple[str, ...]:
    counts = Counter(choice.why for choice in choices)
    mix = ", ".join(f"{count} {why}" for why, count in counts.most_common())
    notes = [f"{labelled:,} images have labels, {candidates:,} do not; of {len(choices)} chosen: {mix}."]
    notes.append(
        "What saves time is the kind of label. Which images it is matters little: no choice was seen to beat random images with boxes, so "
        "half of these are random; the others see to it that no sort of image is left out."
    )
    if not measured:
        notes.append(
            f"A box everywhere, which SAM turns into a mask: with fewer than {LEAST} masks other kinds cannot be weighed."
        )
    if doubts is not None and len(doubts.places) < candidates:
        notes.append(f"The run's model was asked about {len(doubts.places):,} images, drawn at random.")
    return tuple(notes)
