"""Does `maskwright audit` find wrong masks? Errors of known kinds are planted in 5 % of a dataset's masks, and looked for.

    python benchmarks/audit.py --data DATA/saliency --out runs/audit --json audit.json

The errors are made at full resolution and in other ways than those that the audit itself learns from: polygons of five to seven corners
and blocks instead of blurs and ellipses, smoothed noise instead of objects, moves by pixels. A second table leaves each kind out of what
the audit learns from, and looks for it all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from frame import ResumableOptions, Row, Table, kept, publish
from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.masks import label_values
from maskwright.methods.curate.audit import Suspect, collect, rank
from maskwright.methods.curate.material import load_sam, prepare
from maskwright.methods.curate.planted_errors import ERROR_KINDS, ErrorKind

operations: Any = ndimage

Map = NDArray[np.uint8]


@dataclass(kw_only=True)
class Config(ResumableOptions):
    """Planted errors."""

    data: Path
    """Dataset with masks."""
    images: int = 1000
    """Masks at most, drawn by the seed."""
    errors: int = 50
    """Planted ones."""
    seeds: tuple[int, ...] = (0,)
    """Of what is planted, and of the audit."""

    free = (*ResumableOptions.free, "seeds")


# ---------------------------------------------------------------------------------------------------------- planting


def plant(labels: Map, kind: ErrorKind, categories: int, random: np.random.Generator) -> Map | None:
    """A copy of a map with an error, or None where it can have none of this kind."""
    foreground = (labels > 0) & (labels < 255)
    parts, count = operations.label(foreground, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    large = [part for part in range(1, count + 1) if sizes[part] >= 0.002 * labels.size]
    if not large:
        return None
    region = parts == random.choice(large)
    category = int(np.bincount(labels[region]).argmax())
    region &= labels == category
    spoiled, new = labels.copy(), np.zeros_like(region)
    if kind == "swapped":
        others = [other for other in range(1, categories) if other != category]
        if not others:
            return None
        spoiled[region] = random.choice(others)
        return spoiled
    if kind == "extra":
        new = blob(region, foreground, random)
        spoiled[new] = category
        return spoiled if new.any() else None
    if kind == "shifted":
        distance, angle = random.uniform(0.1, 0.25) * np.sqrt(region.sum()), random.uniform(0, 2 * np.pi)
        step = distance * np.sin(angle), distance * np.cos(angle)
        new = operations.shift(region.astype(np.uint8), step, order=0) > 0
    elif kind == "coarse":
        new = polygon(region, random) if random.random() < 0.6 else blocks(region)
    if kind != "missed" and (region & new).sum() > 0.88 * (region | new).sum():
        return None
    spoiled[region] = 0
    spoiled[new] = category
    return spoiled


def polygon(region: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """Five to seven corners on the outline."""
    y, x = np.nonzero(region & ~operations.binary_erosion(region))
    angles, radii = np.arctan2(y - y.mean(), x - x.mean()), np.hypot(y - y.mean(), x - x.mean())
    corners = []
    for angle in np.sort(random.uniform(-np.pi, np.pi, int(random.integers(5, 8)))):
        apart = np.abs((angles - angle + np.pi) % (2 * np.pi) - np.pi)
        near = np.flatnonzero(apart <= max(0.06, float(apart.min())))
        place = near[radii[near].argmax()]
        corners.append((float(x[place]), float(y[place])))
    picture = Image.new("L", region.shape[::-1])
    ImageDraw.Draw(picture).polygon(corners, fill=1)
    return np.asarray(picture) > 0


def blocks(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """As on a canvas of a twenty-fifth of the pixels."""
    height, width = region.shape
    small = Image.fromarray(region.astype(np.uint8) * 255).resize(
        (max(1, width // 25), max(1, height // 25)), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) > 100


def blob(region: NDArray[np.bool_], taken: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """Smoothed noise of 15 to 60 % of the object's area, mostly beside it."""
    area = random.uniform(0.15, 0.6) * region.sum()
    height = max(3, int(np.sqrt(area) * random.uniform(0.6, 1.6)))
    width = max(3, int(area / height))
    new = np.zeros_like(region)
    if height >= region.shape[0] or width >= region.shape[1]:
        return new
    noise = operations.gaussian_filter(random.normal(size=(height, width)), max(2.0, min(height, width) / 5))
    shape = noise > np.quantile(noise, 0.25)
    for _ in range(20):
        y, x = (int(random.integers(full - part)) for full, part in zip(region.shape, shape.shape, strict=True))
        new[:] = False
        new[y : y + height, x : x + width] = shape
        if (new & taken).sum() < 0.2 * new.sum():
            return new
    return np.zeros_like(region)


def spoiled_dataset(config: Config, seed: int, folder: Path) -> tuple[Dataset, dict[str, str]]:
    """A copy of the dataset with planted errors, and the kind of each by the image's id."""
    random = np.random.default_rng([seed, 77])
    source = Dataset.load(config.data)
    masked = [sample for sample in source if sample.labels.mask is not None]
    chosen = [masked[place] for place in sorted(random.permutation(len(masked))[: config.images].tolist())]
    categories = len(source.categories)
    kinds: list[ErrorKind] = [kind for kind in ERROR_KINDS if kind != "swapped" or categories > 2]
    copy = manifest.copy_files(source.with_samples(chosen), folder)
    samples, planted = list(copy), dict[str, str]()
    for place in random.permutation(len(samples)).tolist():
        if len(planted) == config.errors:
            break
        sample, kind = samples[place], kinds[len(planted) % len(kinds)]
        spoiled = plant(label_values(copy, sample)[1].astype(np.uint8), kind, categories, random)
        if spoiled is not None:
            samples[place] = _with_mask(folder, sample, spoiled)
            planted[sample.id] = kind
    dataset = copy.with_samples(samples)
    manifest.write(dataset)
    return Dataset.load(folder), planted


def _with_mask(folder: Path, sample: Sample, labels: Map) -> Sample:
    path = f"masks/{sample.id}.png"
    (folder / path).unlink()
    write_mask(folder / path, labels)
    return replace(sample, labels=replace(sample.labels, mask=Mask(path)))


# ----------------------------------------------------------------------------------------------------------- scoring


def scores(ranking: Sequence[Suspect], planted: dict[str, str], ids: Sequence[str]) -> Row:
    """How early the planted errors come in a ranking."""
    kinds = [planted.get(ids[suspect.place], "") for suspect in ranking]
    found = np.array([kind != "" for kind in kinds])
    precision = found.cumsum() / np.arange(1, len(found) + 1)
    row: Row = {
        "ap": float(precision[found].mean()),
        "precision_50": float(found[:50].mean()),
        "recall_100": float(found[:100].sum() / found.sum()),
        "highest_unspoilt": [ids[s.place] for s, kind in zip(ranking, kinds, strict=True) if not kind][:20],
        "kinds": {},
    }
    for kind in sorted(set(planted.values())):
        own = np.array([each == kind for each in kinds])
        called = sorted(ranking, key=lambda suspect, kind=kind: -_probability(suspect, kind))[:20]
        first = [planted.get(ids[suspect.place], "") for suspect in called]
        row["kinds"][kind] = {
            "planted": int(own.sum()),
            "recall_100": float(own[:100].sum() / own.sum()),
            "named": float(np.mean([s.kind == kind for s, is_own in zip(ranking, own, strict=True) if is_own])),
            "precision_20": float(np.mean([each != "" for each in first])),
            "precision_20_kind": float(np.mean([each == kind for each in first])),
        }
    return row


def _probability(suspect: Suspect, kind: str) -> float:
    return {str(name): value for name, value in suspect.probabilities.items()}[kind]


def make(config: Config, seed: int) -> Row:
    folder = config.out / f"data-{seed}"
    if folder.exists():
        raise SystemExit(f"{folder}: is left from a call that was killed; delete it")
    dataset, planted = spoiled_dataset(config, seed, folder)
    case = collect(prepare(load_sam(config.sam, "cpu"), dataset), seed=seed)
    ids = [sample.id for sample in dataset]
    row = scores(rank(case), planted, ids)
    row["left_out"] = {}
    for kind in sorted(set(planted.values())):
        rest: list[ErrorKind] = [each for each in ERROR_KINDS if each != kind]
        row["left_out"][kind] = scores(rank(case, rest), planted, ids)["kinds"][kind]["recall_100"]
    return row


def main(config: Config) -> None:
    settings = config.start()
    rows = {seed: kept(config.out / f"row-s{seed}.json", lambda seed=seed: make(config, seed)) for seed in config.seeds}

    def mean(*keys: str) -> str:
        values = []
        for row in rows.values():
            value: Any = row
            for key in keys:
                value = value[key]
            values.append(value)
        return f"{np.mean(values):.3f}"

    lines = [["all", "", mean("ap"), mean("precision_50"), mean("recall_100"), "", "", ""]]
    first = next(iter(rows.values()))
    for kind, row in first["kinds"].items():
        lines.append(
            [
                kind,
                str(row["planted"]),
                "",
                mean("kinds", kind, "precision_20"),
                mean("kinds", kind, "recall_100"),
                mean("left_out", kind),
                mean("kinds", kind, "named"),
                mean("kinds", kind, "precision_20_kind"),
            ]
        )
    columns = ["error", "planted", "AP", "precision", "recall at 100", "not learnt", "named right", "of this kind"]
    note = (
        "Precision: of the first 50; of a kind, of the 20 that look most like it, which count where they have any error, and in the last "
        "column where they have this one. Not learnt: recall at 100 where the kind was left out of what the audit learns from."
    )
    title = f"Planted errors in {config.data.name}, {len(rows)} seed{'s' if len(rows) > 1 else ''}"
    publish(config, Table(title, columns, lines, note), settings, rows={str(seed): row for seed, row in rows.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
