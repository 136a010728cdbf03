"""How many more labels: small models on nested shares of the labels that there are, and what the curve foretells for twice as many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.files import write_atomic
from maskwright.data.findings import source_of
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.holdings import Holdings
from maskwright.data.labels import Kind
from maskwright.data.sample import order as stratified_order
from maskwright.engine.locks import FolderLock
from maskwright.engine.metrics import confusion_matrix, dice_from_confusion
from maskwright.engine.report import Report
from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.curate.costs import Costs
from maskwright.methods.curate.learning_curve import RATE, Forecast, forecast
from maskwright.methods.curate.material import Material, Stage
from maskwright.methods.curate.quick import answers, steps_for, train_quick
from maskwright.methods.curate.regions import objects_of
from maskwright.methods.curate.targets import GRID, LOCATED

SHARES = (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
"""Of the labelled images. Smaller ones lie on another part of the curve, and three of the doublings between these are known."""

ORDERS = 3
LEAST = 12
"""Labelled images, below which there is no curve."""

LEAST_TEST = 10
"""Masks to score on, below which differences of a few points cannot be seen."""

HELD_OUT = 0.25
"""Of the masks, where no split has any to score on."""

FORMAT = "maskwright budget 1"
STATE, RESULT, PAGE = "trainings.json", "budget.json", "report.html"


@dataclass(frozen=True)
class Plan:
    """Who learns and who is scored.

    Attributes:
        learners: (L,) places of labelled images.
        test: (T,) places of images with masks; scored_on: the split they are of, or how they were held out.
        seconds: (L,) what the labels of each learner have taken.
        counts: (S,) images of each share.
    """

    learners: NDArray[np.int64]
    test: NDArray[np.int64]
    scored_on: str
    seconds: NDArray[np.float64]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class BudgetResult:
    """What more labels would bring.

    Attributes:
        folder: with ``budget.json``, ``report.html`` and the trainings.
        images: labelled images that were learnt from.
        seconds: of an annotator, that their labels have taken.
        curve: rows ``{"images", "seconds", "dice", "low", "high"}``: the mean of the orders, and the lowest and highest of them.
        forecast: of twice the seconds.
        sentences: the same in words.
    """

    folder: Path
    images: int
    seconds: float
    curve: list[dict[str, float]]
    forecast: Forecast
    sentences: tuple[str, ...]


def plan(material: Material, costs: Costs, seed: int) -> Plan:
    """Choose learners and test images. Raises DataError where there are too few."""
    dataset = material.dataset
    kinds = np.array([sample.labels.kind for sample in dataset])
    splits = np.array([sample.split for sample in dataset])
    learners = np.flatnonzero(np.isin(kinds, LOCATED) & (splits == "train"))
    masked = {name: np.flatnonzero((kinds == Kind.MASK) & (splits == name)) for name in ("val", "test")}
    name = next((name for name in ("val", "test") if len(masked[name]) >= LEAST_TEST), "")
    if name:
        test, scored_on = masked[name], f"split {name!r}"
    else:
        masks = learners[kinds[learners] == Kind.MASK]
        groups = np.unique(material.groups[masks])
        held = np.random.default_rng([seed, 3]).permutation(groups)[: max(1, round(HELD_OUT * len(groups)))]
        test = masks[np.isin(material.groups[masks], held)]
        scored_on = f"{len(test)} masks of split 'train', held out"
    learners = learners[~np.isin(material.groups[learners], material.groups[test])]
    problems = []
    if len(learners) < LEAST:
        problems.append(
            f"{len(learners)} labelled images to learn from in split 'train'; a curve takes at least {LEAST}"
        )
    if len(test) < LEAST_TEST:
        problems.append(
            f"{len(test)} images with a mask to score on; at least {LEAST_TEST} are needed: mask some of split 'val'"
        )
    if problems:
        raise DataError(problems, source_of(dataset))
    seconds = np.array(
        [costs.spent(dataset[i].labels, max(1, len(objects_of(material.maps[i], 99)))) for i in learners]
    )
    counts = sorted({max(3, round(share * len(learners))) for share in SHARES})
    return Plan(learners, test, scored_on, seconds, tuple(counts))


def budget(
    material: Material,
    out: Path,
    costs: Costs,
    *,
    orders: int = ORDERS,
    minutes: float | None = None,
    seed: int = 0,
    settings: dict[str, Any],
    stage: Stage | None = None,
) -> BudgetResult:
    """Train on nested shares, and foretell; see ``maskwright.api.budget``."""
    planned = plan(material, costs, seed)
    told = {
        "format": FORMAT,
        "data": Fingerprint.of(material.dataset).digest,
        "seed": seed,
        "counts": list(planned.counts),
        "costs": {**costs.seconds, "opening": costs.opening},
        **settings,
    }
    with FolderLock(out, "name another folder with --out"):
        cells = _stored(out / STATE, told)
        _train(material, planned, orders, seed, minutes, cells, lambda: _store(out / STATE, told, cells), stage)
        result = _result(material, out, planned, orders, cells, seed)
        write_atomic(out / RESULT, json.dumps(told | _as_json(result), indent=1) + "\n")
        _page(source_of(material.dataset), result).save(out / PAGE)
    return result


def _train(
    material: Material,
    planned: Plan,
    orders: int,
    seed: int,
    minutes: float | None,
    cells: dict[str, list[float]],
    store: Callable[[], None],
    stage: Stage | None,
) -> None:
    """Make the trainings that are missing, order by order, while there is time."""
    until = None if minutes is None else time.monotonic() + 60 * minutes
    work = [(order, count) for order in range(orders) for count in planned.counts]
    total = sum(steps_for(count) for _, count in work)
    done = 0
    for order, count in work:
        name = f"{order}/{count}"
        if name not in cells:
            if until is not None and time.monotonic() > until:
                break
            some = planned.learners[_order(material, planned, seed + order)[:count]]
            cells[name] = _scores(material, some, planned.test, seed + 100 * order + count)
            store()
        done += steps_for(count)
        if stage:
            stage("training on shares", done, total)
    if f"0/{planned.counts[-1]}" not in cells:
        raise MaskwrightError(
            f"--minutes {minutes or 0:g}: not enough for one training on each share; give the command again, it goes on"
        )


def _order(material: Material, planned: Plan, seed: int) -> NDArray[np.int64]:
    """Learners in an order whose first parts are stratified samples of all."""
    part = material.subset(planned.learners)
    units = np.unique(part.groups, return_inverse=True)[1]
    counts = Holdings.of(part.dataset).counts(units, np.ones(len(units), bool))
    rank = stratified_order(counts, np.random.default_rng([seed, 4]))
    return np.lexsort((units, rank[units]))


def _scores(material: Material, learners: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> list[float]:
    """Dice of each test image, of a model that learnt from some images."""
    network = train_quick(material.features.subset(learners), material.maps[learners], material.categories, seed=seed)
    scores: list[float] = []
    for which, probability in answers(network, material.features.subset(test), GRID):
        predicted = probability.argmax(1).numpy()
        truth = material.maps[test[which]]
        scores += [image_dice(p, t, material.categories) for p, t in zip(predicted, truth, strict=True)]
    return [round(score, 5) for score in scores]


def image_dice(predicted: NDArray[np.integer], truth: NDArray[np.integer], categories: int) -> float:
    """Mean Dice 0..1 of the categories that are in the truth or the prediction of one image; 1 where neither has any."""
    scores = dice_from_confusion(confusion_matrix(predicted, truth, categories))[1:]
    there = scores[np.isfinite(scores)]
    return float(there.mean()) if there.size else 1.0


def _result(
    material: Material, out: Path, planned: Plan, orders: int, cells: dict[str, list[float]], seed: int
) -> BudgetResult:
    made = [order for order in range(orders) if f"{order}/{planned.counts[-1]}" in cells]
    scores = np.array([[cells[f"{order}/{count}"] for order in made] for count in planned.counts])
    total = float(planned.seconds.sum())
    amounts = total * np.array(planned.counts) / planned.counts[-1]
    foretold = forecast(amounts, scores, seed)
    means = scores.mean(2)
    curve = [
        {
            "images": count,
            "seconds": amount,
            "dice": float(row.mean()),
            "low": float(row.min()),
            "high": float(row.max()),
        }
        for count, amount, row in zip(planned.counts, amounts.tolist(), means, strict=True)
    ]
    return BudgetResult(
        out, len(planned.learners), total, curve, foretold, _sentences(planned, foretold, total, len(made), orders)
    )


def _sentences(planned: Plan, foretold: Forecast, seconds: float, made: int, orders: int) -> tuple[str, ...]:
    band = f"{foretold.low:.3f} to {foretold.high:.3f}"
    sentences = [
        f"{len(planned.learners):,} labelled images, about {duration(seconds)} of labelling: Dice {foretold.now:.3f} on "
        f"{planned.scored_on}, of a small model on frozen features.",
    ]
    if foretold.says_something:
        gain = 100 * (foretold.score - foretold.now)
        sentences.append(
            f"As much again would bring it to {foretold.score:.3f} ({band}), {gain:.1f} points more for {duration(seconds)}."
        )
    else:
        sentences.append(
            f"As much again would bring it to {foretold.score:.3f} ({band}): the band holds the present score, so whether more labels "
            "would help cannot be said."
        )
    if foretold.calibrated:
        sentences.append(f"The band is as wide as {RATE:.0%} of {len(foretold.backtests)} known doublings asked for.")
    else:
        sentences.append(f"The band is uncalibrated: only {len(foretold.backtests)} doublings are known.")
    if made < orders:
        sentences.append(f"Only {made} of {orders} orders are trained; the same command goes on with the others.")
    sentences.append(
        "Nothing is said of more than twice the labels, nor of labels that are chosen otherwise than these."
    )
    return tuple(sentences)


def duration(seconds: float) -> str:
    """Such as ``40 seconds``, ``35 minutes`` or ``2.5 hours``."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _page(source: str, result: BudgetResult) -> Report:
    page = Report("How many more labels?", source)
    page.text(" ".join(result.sentences))
    x = [row["seconds"] / 60 for row in result.curve]
    last = x[-1]
    series: dict[str, Any] = {"mean of the orders": (x, [row["dice"] for row in result.curve])}
    ahead = [last, 2 * last]
    series["foretold"] = (ahead, [result.forecast.now, result.forecast.score])
    series["band, lower end"] = (ahead, [result.forecast.now, result.forecast.low])
    series["band, upper end"] = (ahead, [result.forecast.now, result.forecast.high])
    page.curves("Dice by minutes of labelling", series, x="minutes", y="Dice")
    rows = [[row["images"], row["seconds"] / 60, row["dice"], row["low"], row["high"]] for row in result.curve]
    return page.table("Trainings", ["images", "minutes of labelling", "Dice", "lowest order", "highest order"], rows)


def _as_json(result: BudgetResult) -> dict[str, Any]:
    told = vars(result.forecast) | {"says_something": result.forecast.says_something}
    return {
        "images": result.images,
        "seconds": result.seconds,
        "curve": result.curve,
        "forecast": told,
        "sentences": list(result.sentences),
    }


def _stored(path: Path, told: dict[str, Any]) -> dict[str, list[float]]:
    """Trainings that were made before. Raises MaskwrightError where they are of other data or settings."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, cells = content["settings"], dict(content["cells"])
    except (ValueError, KeyError, TypeError):
        raise MaskwrightError(f"{path}: is damaged; delete it, or name another folder with --out") from None
    if differs := [name for name, value in told.items() if settings.get(name) != value]:
        names = ", ".join(differs)
        raise MaskwrightError(
            f"{path}: was made with other {names}; name another folder with --out, or delete this one"
        )
    return cells


def _store(path: Path, told: dict[str, Any], cells: dict[str, list[float]]) -> None:
    write_atomic(path, json.dumps({"settings": told, "cells": cells}))
