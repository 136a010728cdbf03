"""How well `maskwright find` finds what one, five or twenty masks show, and how well it says "not there".

    python benchmarks/find.py --data ../shared/data --out runs/find            # test splits, three draws of examples
    python benchmarks/find.py --data ../shared/data --out runs/find --split val

Examples are drawn from ``train``; images that show the thing from the split. Images that do not show it:

- ``elsewhere``: images of the other sets, whole (not for ``saliency``, as something stands out there, too, nor for ``streets``);
- ``same place``: crops of images of the split beside the thing, set against crops of the same sizes that show it;
- ``alike``: scenes with things of other categories alone.

Verdicts rest on what the scorer ships and on the examples, each left out in turn, as those of the command do.

Printed for each set and number of examples: Dice where it is there, of the answer, of simpler ones and of the best candidate; AUROC of the
presence score against each sort of images; Matthews' correlation at a score of .5; the share of images with a verdict, and the shares
of wrong ones; how the expected Dice and the stability go with the true Dice; milliseconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from torch import Tensor

from frame import ResumableOptions, Row, Table, kept, publish
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import squash
from maskwright.data.masks import label_values
from maskwright.data.scenes import CATEGORY_NAMES, render
from maskwright.engine.metrics import auroc
from maskwright.methods.find.candidates import propose
from maskwright.methods.find.clues import FEATURES, KINDS
from maskwright.methods.find.examples import encode_both
from maskwright.methods.find.finder import leave_one_out
from maskwright.methods.find.scorer import BUNDLED, Scorer
from maskwright.methods.find.showing import Showing
from maskwright.methods.find.verdicts import Calibration
from maskwright.sam.precompute import images_of
from maskwright.sam.sam import Embedding, Sam

MANIFESTS = {
    "polyps": "polyps/splits_full.json",
    "saliency": "saliency",
    "cats": "cats",
    "nuclei": "nuclei",
    "streets": "streets",
}
STREETS = ("car", "pedestrian", "bicyclist", "sign", "fence", "pole")
SHOWS = 0.002
"""Share of an image that the thing takes at least where it counts as shown."""


@dataclass(kw_only=True)
class Config(ResumableOptions):
    """What is measured."""

    data: Path
    """Folder of the sets."""
    sets: tuple[str, ...] = (*MANIFESTS, "scenes")
    """Which sets."""
    split: str = "test"
    """Whose images are searched; choose settings on `val`."""
    shots: tuple[int, ...] = (1, 5, 20)
    """Numbers of examples."""
    draws: int = 3
    """Draws of examples."""
    images: int = 60
    """Images of each sort, at most."""
    alpha: float = 0.1
    """Error rate of verdicts."""
    scorer: Path = BUNDLED
    """Scorer that is measured."""

    free = (*ResumableOptions.free, "sets", "shots")


@dataclass
class Pictures:
    """N pictures in memory: canvases (N, 2S, 2S, 3) uint8, category maps (N, S, S) uint8, and their embeddings."""

    canvases: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    embedding: Embedding
    mirrored: Embedding

    def __getitem__(self, rows: NDArray[np.int64]) -> Pictures:
        return Pictures(
            self.canvases[rows],
            self.maps[rows],
            self.embedding[torch.from_numpy(rows)],
            self.mirrored[torch.from_numpy(rows)],
        )

    def __len__(self) -> int:
        return len(self.canvases)


@dataclass
class Tally:
    """What was seen of one set with one number of examples."""

    dice: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    true: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)
    seconds: float = 0.0
    searched: int = 0


def main(config: Config) -> None:
    config.start()
    sam, scorer = Sam.load(config.sam).requires_grad_(False), Scorer.load(config.scorer)
    foreign: dict[str, Pictures] = {}
    rows: dict[str, Row] = {}
    for name in config.sets:
        loaded: list[Any] = []

        def measured(shots: int, name: str = name, loaded: list[Any] = loaded) -> Row:
            if not loaded:
                foreign.update({other: _foreign(sam, config, other) for other in MANIFESTS if other not in foreign})
                loaded.append(_set(sam, config, name))
            train, shown, crops, categories = loaded[0]
            tally = Tally()
            for draw in range(config.draws):
                for category in categories:
                    _episode(sam, scorer, config, tally, name, train, shown, crops, foreign, category, shots, draw)
            return _summary(tally)

        for shots in config.shots:
            rows[f"{name} {shots}"] = kept(config.out / f"{name}-{shots}.json", lambda shots=shots: measured(shots))
    publish(config, _table(rows), config.settings(), rows=rows)


def _table(rows: dict[str, Row]) -> Table:
    kinds, against = (
        ("answer", "in context", "similarity", "pasted", "best candidate"),
        ("all", "elsewhere", "same place", "alike"),
    )
    lines = []
    for name, row in rows.items():
        numbers = [
            *(row["dice"][kind] for kind in kinds),
            row["iou"]["answer"],
            *row["correlation"].values(),
            *(row["auroc"].get(sort) for sort in against),
            *(row[key] for key in ("mcc", "answered", "wrongly not there")),
            row["verdicts"]["shown"].get("not there", 0) / sum(row["verdicts"]["shown"].values()),
            row["wrongly found"],
        ]
        lines.append([name, *("" if n is None else f"{n:.3f}" for n in numbers), f"{row['ms']:.0f}"])
    heads = [
        *(f"Dice: {kind}" for kind in kinds),
        "IoU: answer",
        "r of expected Dice",
        "r of stability",
        *(f"AUROC: {sort}" for sort in against),
    ]
    heads += ["MCC", "answered", "wrongly not there", "of whole images", "wrongly found", "ms"]
    notes = "Milliseconds of CPU an image and category, after encoding it and its mirror image."
    return Table("find: masks where the thing is, and whether it is there", ["set, examples", *heads], lines, notes)


@torch.inference_mode()
def _episode(
    sam: Sam,
    scorer: Scorer,
    config: Config,
    tally: Tally,
    name: str,
    train: Pictures,
    shown: Pictures,
    crops: Pictures,
    foreign: dict[str, Pictures],
    category: int,
    shots: int,
    draw: int,
) -> None:
    """Draw examples of a category, and search images with it and without it."""
    random = np.random.default_rng([draw, shots, category])
    able = np.flatnonzero(_share(train, category) > SHOWS)
    examples = train[random.permutation(able)[:shots]]
    masks = torch.from_numpy(examples.maps == category)
    showing = Showing.of(sam, examples.embedding, masks, torch.from_numpy(examples.maps != 255))
    learnt = showing.shown()
    own = leave_one_out(sam, scorer, showing, examples.canvases, examples.embedding, examples.mirrored)
    calibration = scorer.calibration(shots).sharpened(own)
    share, of_crops = _share(shown, category), _share(crops, category)
    limit = config.images if name not in ("streets", "scenes") else config.images // 4
    searched = {"shown": shown[random.permutation(np.flatnonzero(share > SHOWS))[:limit]]}
    if name == "scenes":
        searched["alike"] = shown[random.permutation(np.flatnonzero(share == 0))[:limit]]
    else:
        searched["shown in crops"] = crops[random.permutation(np.flatnonzero(of_crops > SHOWS))[:limit]]
        searched["same place"] = crops[random.permutation(np.flatnonzero(of_crops == 0))[:limit]]
        # What stands out is in the other sets too, and streets are told from them by anything.
        others = [] if name in ("saliency", "streets") else [foreign[other] for other in foreign if other != name]
        for pictures in others:
            some = random.permutation(len(pictures))[: limit // len(others)]
            _search(sam, scorer, config, tally, "elsewhere", pictures[some], category, learnt, examples, calibration)
    for sort, pictures in searched.items():
        if len(pictures):
            _search(sam, scorer, config, tally, sort, pictures, category, learnt, examples, calibration)


def _search(
    sam: Sam,
    scorer: Scorer,
    config: Config,
    tally: Tally,
    sort: str,
    pictures: Pictures,
    category: int,
    learnt: Any,
    examples: Pictures,
    calibration: Calibration,
) -> None:
    for start in range(0, len(pictures), 8):
        part = pictures[np.arange(start, min(start + 8, len(pictures)))]
        began = time.process_time()
        found = propose(sam, images_of(sam, part.canvases), learnt, part.embedding, part.mirrored)
        best, quality, score = scorer.judge(found.features)
        answer = found.chosen(best)
        tally.seconds += time.process_time() - began
        tally.searched += len(part)
        tally.scores.setdefault(sort, []).extend(score.tolist())
        told = [calibration.verdict(one, config.alpha) for one in score.tolist()]
        tally.verdicts.setdefault(sort, []).extend(told)
        if sort != "shown":
            continue
        truth, known = (torch.from_numpy(each) for each in (part.maps == category, part.maps != 255))
        side = truth.shape[-1]
        rows = torch.arange(len(best))
        given = {"answer": answer > 0}
        maps = F.interpolate(found.logits, (side, side), mode="bilinear", align_corners=False) > 0
        given |= {"in context": maps[:, KINDS.index("recall")], "similarity": maps[:, KINDS.index("matching")]}
        given["pasted"] = torch.from_numpy(examples.maps[:1] == category).expand(len(part), -1, -1)
        for kind, mask in given.items():
            tally.dice.setdefault(kind, []).extend(_dice(mask, truth, known).tolist())
        every = torch.stack([_dice(maps[:, k], truth, known) for k in range(len(KINDS))], 1)
        tally.dice.setdefault("best candidate", []).extend(every.amax(1).tolist())
        tally.true.extend(_dice(given["answer"], truth, known).tolist())
        tally.expected.extend(quality.tolist())
        tally.stable.extend(found.features[rows, best, FEATURES.index("stability")].tolist())


def _summary(tally: Tally) -> dict[str, Any]:
    told: dict[str, Any] = {"dice": {kind: round(float(np.mean(v)), 3) for kind, v in tally.dice.items()}}
    told["iou"] = {kind: round(float(np.mean([d / (2 - d) for d in v])), 3) for kind, v in tally.dice.items()}
    against = {"elsewhere": "shown", "alike": "shown", "same place": "shown in crops"}
    told["auroc"] = {
        s: round(auroc(tally.scores[p], tally.scores[s]), 3) for s, p in against.items() if s in tally.scores
    }
    with_it = [s for s in ("shown", "shown in crops") if s in tally.scores]
    present = [v for s in with_it for v in tally.scores[s]]
    without = [s for s in against if s in tally.scores]
    absent = [v for s in without for v in tally.scores[s]]
    told["auroc"]["all"] = round(auroc(present, absent), 3)
    told["mcc"] = round(_mcc(present, absent), 3)
    told_present = [v for s in with_it for v in tally.verdicts[s]]
    told_absent = [v for s in without for v in tally.verdicts[s]]
    both = told_present + told_absent
    told["answered"] = round(1 - both.count("unsure") / len(both), 3)
    told["wrongly not there"] = round(told_present.count("not there") / len(told_present), 3)
    told["wrongly found"] = round(told_absent.count("found") / len(told_absent), 3)
    told["verdicts"] = {sort: dict(Counter(verdicts)) for sort, verdicts in tally.verdicts.items()}
    told["correlation"] = {
        "expected Dice": round(float(np.corrcoef(tally.true, tally.expected)[0, 1]), 2),
        "stability": round(float(np.corrcoef(tally.true, tally.stable)[0, 1]), 2),
    }
    told["ms"] = round(1000 * tally.seconds / tally.searched, 1)
    return told


def _mcc(present: list[float], absent: list[float]) -> float:
    yes, no = np.array(present) > 0.5, np.array(absent) > 0.5
    tp, fn, fp, tn = yes.sum(), (~yes).sum(), no.sum(), (~no).sum()
    below = np.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return float((tp * tn - fp * fn) / below) if below else 0.0


def _dice(answers: Tensor, truths: Tensor, known: Tensor) -> Tensor:
    answers, truths = answers & known, truths & known
    total = answers.sum((1, 2)) + truths.sum((1, 2))
    return 2 * (answers & truths).sum((1, 2)) / total.clamp(min=1)


def _share(pictures: Pictures, category: int) -> NDArray[np.floating]:
    return (pictures.maps == category).mean((1, 2))


def _set(sam: Sam, config: Config, name: str) -> tuple[Pictures, Pictures, Pictures, list[int]]:
    """Training images, images of the split, crops of them; and the categories that are looked for."""
    if name == "scenes":
        drawn = render(400, sam.size, seed=77, difficulty=0.5)
        categories = F.pad(drawn.categories, (1, 0)).gather(1, drawn.instances.flatten(1)).view_as(drawn.instances)
        images = (drawn.images.permute(0, 2, 3, 1) * 255).byte().numpy()
        canvases = np.stack([squash(image, 2 * sam.size) for image in images])
        pictures = _encoded(sam, canvases, categories.numpy().astype(np.uint8))
        return (
            pictures[np.arange(200)],
            pictures[np.arange(200, 400)],
            pictures[np.arange(0)],
            list(range(1, len(CATEGORY_NAMES))),
        )
    dataset = Dataset.load(config.data / MANIFESTS[name])
    categories = [c for c, n in enumerate(dataset.categories) if c and (name != "streets" or n.lower() in STREETS)]
    train = _encoded(sam, *_read(sam, dataset, "train", 160 if name == "streets" else 60, whole=True))
    shown = _encoded(sam, *_read(sam, dataset, config.split, 240 if name == "streets" else config.images, whole=True))
    crops = _encoded(
        sam, *_read(sam, dataset, config.split, 2 * config.images, whole=False, any_crop=name == "streets")
    )
    return train, shown, crops, categories


def _foreign(sam: Sam, config: Config, name: str) -> Pictures:
    dataset = Dataset.load(config.data / MANIFESTS[name])
    return _encoded(sam, *_read(sam, dataset, config.split, config.images // 2, whole=True, seed=9))


def _read(
    sam: Sam, dataset: Dataset, split: str, count: int, *, whole: bool, seed: int = 3, any_crop: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Canvases and category maps of some images; or of crops of them, half without any object where there is room."""
    random = np.random.default_rng(seed)
    part = dataset.split(split)
    canvases, maps = [], []
    for place in random.permutation(len(part))[:count].tolist():
        pixels, values = part.pixels(part[place]), label_values(part, part[place])[1]
        for box in _boxes(values, random, any_crop) if not whole else [(0, 0, pixels.shape[1], pixels.shape[0])]:
            x0, y0, x1, y1 = box
            canvases.append(squash(np.ascontiguousarray(pixels[y0:y1, x0:x1]), 2 * sam.size))
            small = F.interpolate(
                torch.from_numpy(np.ascontiguousarray(values[y0:y1, x0:x1]))[None, None].float(), (sam.size, sam.size)
            )
            maps.append(small[0, 0].byte().numpy())
    return np.stack(canvases), np.stack(maps)


def _boxes(
    values: NDArray[np.integer], random: np.random.Generator, any_crop: bool
) -> Iterator[tuple[int, int, int, int]]:
    """Two crops of a third to a half of the image's sides: one that shows an object, and one that shows none; or any."""
    height, width = values.shape
    wanted = {True, False}
    for _ in range(60):
        share = random.uniform(0.33, 0.55)
        w, h = round(share * width), round(share * height)
        x, y = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
        inside = values[y : y + h, x : x + w]
        shows = bool(((inside > 0) & (inside < 255)).mean() > SHOWS)
        if any_crop:
            shows = True in wanted
        if (any_crop or shows or not (inside > 0).any()) and shows in wanted:
            wanted.remove(shows)
            yield x, y, x + w, y + h
        if not wanted:
            return


def _encoded(sam: Sam, canvases: NDArray[np.uint8], maps: NDArray[np.uint8]) -> Pictures:
    return Pictures(canvases, maps, *encode_both(sam, canvases))


if __name__ == "__main__":
    main(tyro.cli(Config))
