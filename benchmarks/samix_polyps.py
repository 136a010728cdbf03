"""How much of the way from few masks to all masks do weak labels go? SAMIX, its parts and its baselines on one dataset.

    python benchmarks/samix_polyps.py --data DATA/polyps --out runs/polyps --json polyps.json
    python benchmarks/samix_polyps.py --data DATA/polyps --out runs/parts --steps 700 --seeds 0 1 2 --rows masks_only mixed full
    python benchmarks/samix_polyps.py --data DATA/polyps --out runs/eight --masks 8 --json eight.json
    python benchmarks/samix_polyps.py --data DATA/polyps --out runs/without --masks 8 --steps 500 --rows mixed no_box no_none

Rows: masks only; weak losses without SAM; boxes as ellipses; mixed (SAM's pseudo-masks); mixed with references chosen by
the policy; mixed with SAM as it comes (no adapters, nothing tuned), with either way of choosing; full supervision. Ablations of
mixed, made only where `--rows` names them: without one kind of label, tags and unlabelled images alone beside the masks, other
references, the adapters alone, boxes answered on the whole image, a policy with fewer rewards. All are
trained alike: same steps, seeds and augmentation. Gap closed = (row - masks only) / (full - masks only), of the seeds that
all three have. Also the Dice of the pseudo-masks per kind of label, against masks that training never saw.

Every row is a folder in OUT; a call that was killed goes on with those that are missing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import tyro

from frame import Rows, Table, TrainingOptions, by_name, interval, publish, refuse_unknown, rows_of
from maskwright import api
from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind, Labels
from maskwright.data.mask_files import read_mask
from maskwright.data.shapes import ellipse_radius, filled_boxes
from maskwright.engine.metrics import SegmentationMetrics, paired_bootstrap
from maskwright.methods.in_context.judging import REWARDS, Judge
from maskwright.methods.in_context.pool import ReferencePool
from maskwright.recipes import samix

FROZEN: dict[str, Any] = {"adapters": False, "tune_decoder": False}
ROWS: dict[str, dict[str, Any]] = {
    "masks_only": {"labels": "masks-only"},
    "weak_losses": {"pseudo": "none"},
    "ellipses": {"pseudo": "ellipse"},
    "frozen": FROZEN,
    "frozen_policy": FROZEN | {"selector": "policy"},
    "mixed": {},
    "mixed_policy": {"selector": "policy"},
    "full": {},
}
"""In the order of the table, by what they change of the recipe's settings."""

WEAK = tuple(kind for kind in Kind if kind != Kind.MASK)
LEFT_OUT: dict[str, tuple[Kind, ...]] = {f"no_{kind}": (kind,) for kind in WEAK} | {
    "blind_alone": tuple(kind for kind in WEAK if kind > Kind.TAG)
}
"""Ablations of mixed without the images whose finest label is of these kinds."""

FEWER_REWARDS = {"policy_iou": ("true", "iou"), "policy_iou_view": ("true", "iou", "view")}
"""Ablations of mixed_policy, by the rewards that are left; the rewards of images without a mask are added one by one."""

ABLATIONS: dict[str, dict[str, Any]] = {name: {} for name in LEFT_OUT} | {
    "random_references": {"selector": "random"},
    "any_references": {},
    "newest_references": {},
    "adapters_alone": {"tune_decoder": False},
    "whole_view": {"closer_look": False},
    **dict.fromkeys(FEWER_REWARDS, ROWS["mixed_policy"]),
}
"""Ablations of mixed, by what they change of its settings."""


@dataclass(kw_only=True)
class Config(TrainingOptions):
    """SAMIX beside its baselines."""

    data: Path
    """Folder with splits.json (mixed labels) and splits_full.json (all masks)."""
    masks: int | None = None
    """Keep the masks of only so many training images, drawn by the first seed; the others have no label then."""
    steps: int = 1400
    batch: int = 4
    coarse_share: float = 0.0
    """Share of the steps at half the resolution."""
    size: int = 256


def make(config: Config, full: Dataset, row: str, seed: int) -> dict[str, Any]:
    """Train and score one row."""
    out, started = config.out / f"run-{row}-s{seed}", time.monotonic()
    changed = (ROWS | ABLATIONS)[row]
    settings = samix.Config(
        data=config.data / "splits_full.json" if row == "full" else mixed_data(config, LEFT_OUT.get(row, ())),
        out=out,
        **_length(config, changed, row),
        keep="last",
        batch=config.batch,
        coarse_share=config.coarse_share,
        size=config.size,
        sam=config.sam,
        seed=seed,
        resume=True,
        **{name: value for name, value in changed.items() if name not in ("warm_up", "policy_warm_up")},
    )
    with _patched(row):
        samix.main(settings)
    minutes = (time.monotonic() - started) / 60
    scores = api.evaluate(out, full, split=config.split)
    images = {image["id"]: image["dice"] for image in scores["per_image"] if image["dice"] is not None}
    pseudo = pseudo_dice(out, full) if (out / "pseudo" / "index.json").is_file() else {}
    return {"dice": scores["dice"], "iou": scores["iou"], "images": images, "pseudo": pseudo, "minutes": minutes}


def _patched(row: str) -> AbstractContextManager[object]:
    """What some ablations change, which no setting does: any entry of the pool may serve any query, not only one with a finer label (in
    pools without an index); an entry is the newest answer, not a moving average of all; the policy has fewer rewards."""
    if row == "any_references":
        return mock.patch.object(ReferencePool, "allowed", _of_the_category)
    if row == "newest_references":
        return mock.patch.object(ReferencePool, "__init__", partialmethod(ReferencePool.__init__, momentum=0.0))
    if row in FEWER_REWARDS:
        left = torch.tensor([reward in FEWER_REWARDS[row] for reward in REWARDS])
        present = Judge.present
        return mock.patch.object(Judge, "present", lambda judge: present(judge) & left[:, None].to(judge.truth.device))
    return nullcontext()


def _of_the_category(
    pool: ReferencePool, samples: torch.Tensor, categories: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    """In place of ``ReferencePool.allowed``: entries of the category in other images."""
    same = pool.tensors["category"] == categories[:, None]
    return same & (pool.tensors["sample"] != samples[:, None])


def mixed_data(config: Config, left_out: tuple[Kind, ...] = ()) -> Path:
    """The dataset with mixed labels; with ``--masks`` a copy in OUT, in which the other masks are gone; and one without the training images
    whose finest label is of the kinds that are left out."""
    if left_out:
        name = "-".join(["data", str(config.masks or "all"), "without", *map(str, left_out)])
        return _copy(config.out / name, lambda: _without(Dataset.load(mixed_data(config)), left_out))
    if config.masks is None:
        return config.data / "splits.json"
    return _copy(config.out / f"data-{config.masks}-masks", partial(_fewer_masks, config, config.masks))


def _copy(folder: Path, make: Callable[[], Dataset]) -> Path:
    """``folder`` with a dataset and its files; of an earlier call, or of this one."""
    if not (folder / manifest.NAME).is_file():
        dataset = make()
        shutil.rmtree(folder, ignore_errors=True)
        manifest.write(manifest.copy_files(dataset, folder))
    return folder


def _without(dataset: Dataset, kinds: tuple[Kind, ...]) -> Dataset:
    return dataset.with_samples([s for s in dataset if s.split != "train" or s.labels.kind not in kinds])


def _fewer_masks(config: Config, masks: int) -> Dataset:
    dataset = Dataset.load(config.data)
    masked = [sample.id for sample in dataset.split("train") if sample.labels.mask]
    if len(masked) < masks:
        raise SystemExit(f"--masks {masks}: only {len(masked)} training images of {config.data} have a mask")
    order = np.random.default_rng(config.seeds[0]).permutation(sorted(masked))
    dropped = set(order[masks:].tolist())
    return dataset.with_samples([replace(s, labels=Labels()) if s.id in dropped else s for s in dataset])


def _length(config: Config, changed: dict[str, Any], row: str) -> dict[str, int]:
    """Of the whole training: as many steps of the segmenter for every row, and the warm-ups of those that have them."""
    changed = {"labels": "all", "pseudo": "sam", "adapters": True, "selector": "similar"} | changed
    uses_sam = row != "full" and changed["labels"] == "all" and changed["pseudo"] == "sam"
    warm_up = changed.get("warm_up", 150) if uses_sam and changed["adapters"] else 0
    policy = changed.get("policy_warm_up", 100) if uses_sam and changed["selector"] == "policy" else 0
    return {"steps": config.steps + warm_up + policy, "warm_up": warm_up, "policy_warm_up": policy}


def pseudo_dice(run: Path, full: Dataset) -> dict[str, dict[str, float]]:
    """Mean Dice of ``RUN/pseudo`` per kind of label, against the full masks."""
    index = json.loads((run / "pseudo" / "index.json").read_text())["samples"]
    found: dict[str, SegmentationMetrics] = {}
    for sample in full.split("train"):
        path = full.mask_path(sample)
        if sample.id in index and path is not None:
            scores = found.setdefault(index[sample.id]["kind"], SegmentationMetrics(full.categories))
            scores.update(read_mask(run / "pseudo" / f"{sample.id}.png"), read_mask(path), sample.id)
    computed = {kind: scores.compute() for kind, scores in found.items()}
    return {kind: {"dice": scores["dice"], "images": scores["images"]} for kind, scores in computed.items()}


def trivial_dice(mixed: Dataset, full: Dataset) -> dict[str, float]:
    """Ellipse and filled box for the images with boxes, of a dataset with one category."""
    truth = {s.id: full.mask_path(s) for s in full}
    found = {name: SegmentationMetrics(full.categories) for name in ("ellipse", "filled box")}
    for sample in mixed.split("train"):
        path = truth.get(sample.id)
        if sample.labels.kind != Kind.BOX or path is None:
            continue
        mask = read_mask(path)
        boxes = torch.tensor([box.xyxy for box in sample.labels.boxes])
        answers = ellipse_radius(boxes, *mask.shape) <= 1, filled_boxes(boxes, *mask.shape)
        for scores, answer in zip(found.values(), answers):
            scores.update(answer.any(0).numpy().astype(np.uint8), mask, sample.id)
    return {name: scores.compute()["dice"] for name, scores in found.items()}


def summarise(rows: Rows) -> dict[str, dict[str, Any]]:
    """Means over the seeds, gap closed, and the difference to ``mixed`` with its interval.

    Args:
        rows: by row and seed.
    """
    figures = {}
    for name, mine in by_name(rows).items():
        means: dict[str, Any] = {key: _mean(row[key] for row in mine.values()) for key in ("dice", "iou", "minutes")}
        figures[name] = means
        means["seeds"] = {seed: row["dice"] for seed, row in mine.items()}
        ends = [s for s in mine if ("masks_only", s) in rows and ("full", s) in rows]
        if ends:
            low, high = (_mean(rows[end, s]["dice"] for s in ends) for end in ("masks_only", "full"))
            means["gap_closed"] = (_mean(mine[s]["dice"] for s in ends) - low) / (high - low)
        common = [s for s in mine if name != "mixed" and ("mixed", s) in rows]
        if common:
            ids = sorted(mine[common[0]]["images"])
            own, other = ([[rows[of, s]["images"][i] for i in ids] for s in common] for of in (name, "mixed"))
            means["over_mixed"] = paired_bootstrap(own, other)
        kinds = {kind for row in mine.values() for kind in row["pseudo"]}
        means["pseudo"] = {kind: _mean(row["pseudo"][kind]["dice"] for row in mine.values()) for kind in sorted(kinds)}
    return figures


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def main(config: Config) -> None:
    refuse_unknown("--rows", config.rows, ROWS | ABLATIONS)
    settings = config.start()
    mixed, full = Dataset.load(config.data), Dataset.load(config.data / "splits_full.json")
    names = [name for name in ROWS | ABLATIONS if name in (config.rows or ROWS)]
    wanted = [(name, seed) for seed in config.seeds for name in names]
    figures = summarise(rows_of(config.out, ROWS | ABLATIONS, wanted, partial(make, config, full)))
    trivial = trivial_dice(mixed, full)
    publish(config, table(config, figures, trivial), settings, rows=figures, trivial=trivial)


def table(config: Config, figures: dict[str, dict[str, Any]], trivial: dict[str, float]) -> Table:
    kinds = sorted({kind for row in figures.values() for kind in row["pseudo"]})
    pseudo = (f"pseudo: {kind}" for kind in kinds)
    return Table(
        f"{config.data_name}, {config.split} split, {config.steps} steps of {config.batch}, {config.size} px",
        ["labels", "Dice", "seeds", "IoU", "gap closed", "over mixed x 100", *pseudo, "minutes"],
        [_cells(name, row, kinds) for name, row in figures.items()],
        "Minutes are of the call that finished a row. Trivial answers to the boxes (Dice): "
        + ", ".join(f"{name} {dice:.3f}" for name, dice in trivial.items()),
    )


def _cells(name: str, row: dict[str, Any], kinds: list[str]) -> list[str]:
    over = row.get("over_mixed")
    return [
        name,
        f"{row['dice']:.3f}",
        " ".join(f"{dice:.3f}" for dice in row["seeds"].values()),
        f"{row['iou']:.3f}",
        f"{row['gap_closed']:.2f}" if "gap_closed" in row else "",
        interval([100 * value for value in over] if over else None, digits=1),
        *(f"{row['pseudo'][kind]:.3f}" if kind in row["pseudo"] else "" for kind in kinds),
        f"{row['minutes']:.1f}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
