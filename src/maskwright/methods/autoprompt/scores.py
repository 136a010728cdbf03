"""The foreground of a dataset, its images as a bank, and the scores of a SAM that prompts itself on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE
from maskwright.data.loader import Loader
from maskwright.engine.metrics import BinaryMetrics
from maskwright.errors import DataError
from maskwright.methods.autoprompt.agent import OPENING, SelfPrompter, SelfPromptRules, Trace, resized
from maskwright.rl.bank import MIN_SHARE, Bank
from maskwright.sam.sam import Sam


@dataclass(frozen=True)
class Foreground:
    """The categories of a dataset that are foreground together.

    Attributes:
        names: of the categories.
        ids: of the categories, in the dataset.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    @property
    def name(self) -> str:
        return " + ".join(self.names)


def foreground_of(dataset: Dataset, categories: Sequence[str], text: Sequence[str] = ()) -> Foreground:
    """The categories that are foreground.

    Args:
        dataset: with the background and at least one more category.
        categories: their names; left out, those of the text if the dataset has them all, else all but the background.
        text: the foreground in words.

    Raises:
        DataError: names that the dataset does not have, or names twice; all at once.
    """
    available = dataset.categories[1:]
    names = tuple(categories) or (tuple(text) if text and set(text) <= set(available) else available)
    problems = [
        f"--category {name!r}: the dataset has {', '.join(map(repr, available)) or 'no category'}; name one of them"
        for name in dict.fromkeys(names)
        if name not in available
    ]
    problems += [f"--category {name!r} is named twice; name it once" for name in set(names) if names.count(name) > 1]
    if not available:
        problems.append("no category but the background is named; name what is to be found")
    if problems:
        raise DataError(problems, dataset.source or str(dataset.root))
    return Foreground(names, tuple(dataset.categories.index(name) for name in names))


def foreground_bank(
    sam: Sam, dataset: Dataset, foreground: Foreground, *, both: bool = False, limit: int | None = None, batch: int = 16
) -> Bank:
    """Images with masks, one target each: their foreground, which may be empty. Every image of the bank is encoded once.

    Args:
        sam: encodes.
        dataset: all samples have a mask.
        foreground: of this dataset.
        both: leave out images that do not show foreground and something else, each on at least ``MIN_SHARE`` of the canvas.
        limit: most images of the bank, the first ones; None: all.
        batch: images that are read and encoded at once.
    """
    ids = torch.tensor(foreground.ids)
    pixels, truths, knowns, insides, names = [], [], [], [], []
    count = 0
    for part in Loader(dataset, sam.size, batch, shuffle=False).ordered() if len(dataset) else ():
        truth, known = torch.isin(part.target, ids), part.target != IGNORE
        keep = torch.ones(len(part), dtype=torch.bool)
        if both:
            keep = torch.stack([(m.flatten(1).float().mean(1) >= MIN_SHARE) for m in (truth, known & ~truth)]).all(0)
        rows = keep.nonzero()[:, 0][: None if limit is None else limit - count]
        count += len(rows)
        pixels.append((part.images[rows] * 255).round().byte())
        for parts, values in ((truths, truth), (knowns, known), (insides, part.inside)):
            parts.append(values[rows])
        names += [dataset[i].id for i in part.indices[rows].tolist()]
        if count == limit:
            break
    if not count:
        raise DataError(
            [f"no image of {len(dataset)} has a mask that shows {foreground.name!r} and something else; label some"],
            dataset.source or str(dataset.root),
        )
    return Bank.of_images(
        sam,
        torch.cat(pixels),
        truth=torch.cat(truths),
        known=torch.cat(knowns),
        inside=torch.cat(insides),
        names=names,
        batch=batch,
    )


def places_on(bank: Bank, trace: Trace) -> Tensor:
    """(B, T) float: 1 where a click after the opening lies on true foreground, 0 where it does not, NaN where that is unknown."""
    return _truth_at(bank, trace.last.points[:, OPENING : OPENING + len(trace.states) - 1])


def labels_right(bank: Bank, trace: Trace) -> Tensor:
    """(B, T + 2) float: 1 where the label of a click is that of the truth, 0 where it is not, NaN where that is unknown; the opening
    counts."""
    clicks = slice(OPENING + len(trace.states) - 1)
    truth = _truth_at(bank, trace.last.points[:, clicks])
    return torch.where(truth.isnan(), truth, (truth == trace.last.labels[:, clicks]).float())


def _truth_at(bank: Bank, places: Tensor) -> Tensor:
    """(B, K) float: the truth at places (B, K, 2) of the bank's targets; NaN where it is unknown."""
    column, row = places.floor().long().clamp(0, bank.size - 1).unbind(-1)
    image = torch.arange(len(bank), device=bank.device)[:, None]
    truth = bank.known_truth
    return torch.where(truth.known[image, row, column], truth.canvas[image, row, column].float(), torch.nan)


def probabilities(logits: Tensor, size: int) -> Tensor:
    """Logits (B, h, w) → probabilities (B, S, S) on the canvas, enlarged bilinearly."""
    return resized(logits, (size, size)).sigmoid()


def scores_on_canvas(
    agent: SelfPrompter,
    bank: Bank,
    rules: SelfPromptRules | None = None,
    *,
    seed: int = 0,
    batch: int = 32,
    maps: Callable[[Trace, Bank], Tensor] | None = None,
) -> dict[str, Any]:
    """Scores of all images of a bank with truth, on the canvas; see ``BinaryMetrics.compute``.

    Args:
        rules: left out, the agent's own.
        seed: of random places.
        maps: makes the probabilities (B, S, S) that are scored; left out, those of the last answer.
    """
    metrics = BinaryMetrics()
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        part = bank.select(rows)
        trace = agent.segment(part, rules, generator)
        probability = probabilities(trace.answer.logits, bank.size) if maps is None else maps(trace, part)
        truth, on_foreground = part.known_truth, places_on(part, trace).cpu().numpy()
        target = torch.where(truth.known, truth.canvas.long(), IGNORE).cpu().numpy()
        for place, (name, on) in enumerate(zip(part.names, on_foreground)):
            probability_of_image = probability[place].cpu().numpy().astype(np.float64)
            metrics.update(
                probability_of_image,
                target[place],
                name,
                places=on[np.isfinite(on)] == 1,
                presence=float(trace.presence[place]),
            )
    return metrics.compute()
