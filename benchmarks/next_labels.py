"""Is `maskwright next` worth it? A simulated annotator labels what each strategy chooses, and a small model learns from it.

    python benchmarks/next_labels.py --data DATA/saliency --out runs/next --seeds 0 1 2 3 4 --json next.json

The annotator errs: sides of boxes by 3 % (SAM turns them into masks), borders of masks drawn by hand by 1 to 2 pixels of 256. Seconds are
those of `maskwright next`, a mask by hand takes 60 an object. After 1, 2, 4, 8 and 16 times the first budget a model is trained anew,
for as many steps in every row, and scored on the same test images. Where every image shows its object, "random" is also "random with
foreground".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from frame import Row, Table, TrainingOptions, by_name, interval, publish, refuse_unknown, rows_of
from maskwright.data.dataset import Dataset
from maskwright.engine.metrics import paired_bootstrap
from maskwright.methods.curate.budget import image_dice
from maskwright.methods.curate.choosing import choose, doubts_of, vectors_of
from maskwright.methods.curate.costs import Costs
from maskwright.methods.curate.kinds import simulated_answers
from maskwright.methods.curate.material import Material, load_sam, prepare
from maskwright.methods.curate.quick import STEPS, answers, train_quick
from maskwright.methods.curate.regions import objects_of, operations
from maskwright.methods.curate.targets import GRID
from maskwright.methods.curate.views import canvas_of

BY_HAND = 60.0
"""Seconds for the mask of an object."""

ROWS = {
    "random, masks": ("random", "mask"),
    "TypiClust, masks": ("typical", "mask"),
    "random, boxes": ("random", "box"),
    "TypiClust, boxes": ("typical", "box"),
    "next": ("next", "box"),
    "doubts": ("unsure", "box"),
}
"""Row → how images are chosen, and what is drawn on them. `next` asks for boxes as long as there are no masks to weigh kinds on. `doubts`:
typical at first, then every second one by the doubts of the small model that has learnt so far, as `next --run` does with a run's."""


@dataclass(kw_only=True)
class Config(TrainingOptions):
    """Strategies of labelling."""

    first: float = 120.0
    """Seconds of the first budget."""
    doublings: int = 4
    """Budgets after it, each twice the one before."""
    faster: float = 1.0
    """Times which all costs of labels are; opening an image stays."""

    @property
    def budgets(self) -> list[float]:
        """In seconds."""
        return [self.first * 2**number for number in range(self.doublings + 1)]


class Annotator:
    """Draws labels with errors; what was drawn once is drawn alike again.

    Args:
        material: its maps are the truth.
    """

    def __init__(self, material: Material, faster: float) -> None:
        self.material = material
        self.costs = Costs({**Costs().seconds, "mask": BY_HAND})
        self.costs = Costs({kind: seconds / faster for kind, seconds in self.costs.seconds.items()})
        self._drawn: dict[tuple[int, str], NDArray[np.uint8]] = {}

    def seconds(self, place: int, kind: str) -> float:
        return self.costs.of(kind, len(objects_of(self.material.maps[place])))

    def draw(self, place: int, kind: str) -> NDArray[np.uint8]:
        """The map that a label of this kind becomes."""
        if (place, kind) not in self._drawn:
            self._drawn[place, kind] = self._draw(place, kind, np.random.default_rng([place, len(kind)]))
        return self._drawn[place, kind]

    def _draw(self, place: int, kind: str, random: np.random.Generator) -> NDArray[np.uint8]:
        objects = objects_of(self.material.maps[place])
        labels = np.zeros((GRID, GRID), np.uint8)
        if not objects:
            return labels
        if kind == "mask":
            masks = [_traced(region, random) for _, region in objects]
        else:
            image = canvas_of(self.material.dataset, place, self.material.sam)
            masks, _ = simulated_answers(self.material.sam, image, [region for _, region in objects], kind, random)
        for (category, _), mask in zip(objects, masks, strict=True):
            labels[mask] = category
        return labels


def _traced(region: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """A region whose border is off by 1 to 2 pixels of 256, inwards here and outwards there."""
    # From the border, which lies half a cell beside the centres of the cells along it.
    signed = operations.distance_transform_edt(region) - operations.distance_transform_edt(~region)
    signed -= np.sign(signed) / 2
    wobble = np.sign(operations.gaussian_filter(random.normal(size=region.shape), 4))
    return signed + random.uniform(0.5, 1.0) * wobble > 0


class Study:
    """The dataset, its features and the annotator, for all rows."""

    def __init__(self, config: Config) -> None:
        self.config = config
        dataset = Dataset.load(config.data)
        used = [s for s in dataset if s.split in ("train", config.split) and s.labels.mask is not None]
        self.material = prepare(load_sam(config.sam, "cpu"), dataset.with_samples(used))
        self.pool = np.flatnonzero([sample.split == "train" for sample in used])
        self.test = np.flatnonzero([sample.split == config.split for sample in used])
        self.vectors = vectors_of(self.material.features)
        self.annotator = Annotator(self.material, config.faster)

    def make(self, row: str, seed: int) -> Row:
        """Dice of each test image after each budget."""
        how, kind = ROWS[row]
        labels: dict[int, NDArray[np.uint8]] = {}
        spent, network, points = 0.0, None, []
        for number, budget in enumerate(self.config.budgets):
            queue = self._chosen(how, labels, network, 1000 * seed + number)
            while (place := next(queue, None)) is not None:
                seconds = self.annotator.seconds(place, kind)
                if spent + seconds > budget:
                    break
                labels[place] = self.annotator.draw(place, kind)
                spent += seconds
            if labels:
                places = np.array(list(labels))
                part = self.material.features.subset(places)
                maps = np.stack(list(labels.values()))
                network = train_quick(part, maps, self.material.categories, steps=STEPS, seed=seed)
            points.append({"budget": budget, "spent": spent, "labels": len(labels), "dice": self._dice(network)})
        return {"points": points}

    def _chosen(self, how: str, labels: dict[int, Any], network: Any, seed: int) -> Iterator[int]:
        """Places in the order in which they are labelled, without end before the pool is."""
        labelled = np.array(sorted(labels), np.int64)
        rest = self.pool[~np.isin(self.pool, labelled)]
        if how == "random":
            return iter(np.random.default_rng([seed, 1]).permutation(rest).tolist())
        doubts = None
        if how == "unsure" and network is not None:
            doubts = doubts_of(network, self.material.features, rest, seed=seed)
        most = min(len(rest), int(self.config.budgets[-1] // self.annotator.costs.of("box")))
        mixed = {"random_share": 0.0} if how == "typical" else {}
        groups = self.material.groups
        choices = choose(self.vectors, labelled, rest, most, groups=groups, doubts=doubts, seed=seed, **mixed)
        return iter([choice.place for choice in choices])

    def _dice(self, network: Any) -> list[float]:
        if network is None:
            return [0.0] * len(self.test)
        scores: list[float] = []
        for which, probability in answers(network, self.material.features.subset(self.test), GRID):
            truth = self.material.maps[self.test[which]]
            predicted = probability.argmax(1).numpy()
            scores += [image_dice(p, t, self.material.categories) for p, t in zip(predicted, truth, strict=True)]
        return scores


def area(row: Row) -> NDArray[np.float64]:
    """Mean over the budgets, which is the area under the curve on a log axis: (I,) of each test image."""
    return np.mean([point["dice"] for point in row["points"]], axis=0)


def seconds_to(curves: Sequence[Row], dice: float) -> float:
    """When the mean curve reaches a Dice, interpolated on the log axis; infinite where it never does."""
    budgets = np.array([point["budget"] for point in curves[0]["points"]])
    means = np.maximum.accumulate(np.mean([[np.mean(p["dice"]) for p in row["points"]] for row in curves], axis=0))
    if means[-1] < dice:
        return float("inf")
    return float(2 ** np.interp(dice, means, np.log2(budgets)))


def main(config: Config) -> None:
    names = list(config.rows or ROWS)
    refuse_unknown("--rows", names, ROWS)
    settings = config.start()
    study: list[Study] = []

    def make(row: str, seed: int) -> Row:
        if not study:
            study.append(Study(config))
        return study[0].make(row, seed)

    wanted = [(name, seed) for seed in config.seeds for name in names]
    rows = by_name(rows_of(config.out, list(ROWS), wanted, make))
    lines = []
    goal = _last(rows.get("random, masks"))
    for name, curves in rows.items():
        means = np.mean([[np.mean(p["dice"]) for p in row["points"]] for row in curves.values()], axis=0)
        needed = "" if goal is None else f"{seconds_to(list(curves.values()), goal):.0f}"
        lines.append([name, *(f"{mean:.3f}" for mean in means), f"{means.mean():.3f}", needed, _against(rows, name)])
    columns = [
        "strategy",
        *(f"{budget:g} s" for budget in config.budgets),
        "area",
        "seconds to equal",
        "area − random, boxes",
    ]
    note = (
        "Dice on the test images; area: mean over the budgets. Seconds to equal: until the last Dice of random images with masks. "
        "Intervals are paired, over seeds and test images."
    )
    title = f"Labelling {config.data_name}, {len(config.seeds)} seeds"
    figures = {name: {str(seed): _short(row) for seed, row in curves.items()} for name, curves in rows.items()}
    publish(config, Table(title, columns, lines, note), settings, rows=figures)


def _last(curves: dict[int, Row] | None) -> float | None:
    return None if not curves else float(np.mean([np.mean(row["points"][-1]["dice"]) for row in curves.values()]))


def _against(rows: dict[str, dict[int, Row]], name: str) -> str:
    base = rows.get("random, boxes")
    if base is None or name == "random, boxes":
        return ""
    seeds = sorted(set(base) & set(rows[name]))
    return interval(paired_bootstrap([area(rows[name][s]) for s in seeds], [area(base[s]) for s in seeds]))


def _short(row: Row) -> list[dict[str, float]]:
    return [{**point, "dice": float(np.mean(point["dice"]))} for point in row["points"]]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
