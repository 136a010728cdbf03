"""What unlabelled images are worth to an instance segmenter: teacher and student of S⁴M at several labelled shares, part by part.

    python benchmarks/s4m_shares.py --data DATA/nuclei --flips all --seeds 0 1 2 --out runs/s4m-nuclei --json s4m.json
    python benchmarks/s4m_shares.py --data DATA/cats --seeds 0 1 2 --out runs/s4m-cats --rows "10%: teacher" "10%: student"
    python benchmarks/s4m_shares.py --data runs/scenes --scenes --out runs/s4m-scenes --rows "10%: teacher" "10%: student"

Each seed draws its own labelled images; shares of one seed are nested. A teacher learns from them for `--minutes`, a student of it for
as long again from them and from all other training images without their labels. Rows at 10 %: the student without one part each; one that
learns from the labelled images alone for as long, which says what the unlabelled ones are worth; teachers whose head begins from random
weights, or with structural distillation. A plain U-Net from random weights learns three classes (background, inside, border) from the same
crops, and its connected parts are objects; it keeps its last weights, the recipe the best of its validations, whose time is part of its
minutes.

AP by COCO's protocol on the test images, beside its ceiling, the AP of the truth itself. Intervals are paired bootstraps over draws
and images of the mean of the AP of each image, as COCO's own has no parts to resample.

Killed, it goes on where it stopped: every run and every row is a folder or a JSON file in OUT.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from frame import Rows, Table, TrainingOptions, by_name, each_seed, interval, publish, refuse_unknown, rows_of, slug
from maskwright import api
from maskwright.data.dataset import Dataset
from maskwright.data.instances import InstanceLoader, is_labelled, read_ids
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.scenes import CATEGORY_NAMES, render
from maskwright.engine.budget import progress
from maskwright.engine.metrics import paired_bootstrap
from maskwright.methods.instances import beyond_ap, coco
from maskwright.methods.instances.coco import Detection
from maskwright.methods.instances.dense_views import SMALLEST_OBJECT
from maskwright.methods.instances.prediction import InstancePrediction
from maskwright.methods.instances.predictor import InstancePredictor
from maskwright.recipes import s4m
from maskwright.recipes.s4m.dense import crop_at, labelled_view, measured_zoom
from maskwright.recipes.s4m.images import keep_labels
from maskwright.recipes.s4m.trainer import turns_of

SCENE_CATEGORIES = {
    "round": ("disc", "blob", "flower", "ring", "crescent"),
    "angular": ("polygon", "star", "cross"),
    "long": ("bar", "tube", "leaf", "figure"),
}
"""Every shape of the scenes belongs to one: a tenth of the labels then shows each often enough to be learnt."""


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        labelled: share of the training images that keep their labels; None: all.
        changed: of the recipe's settings.
        of: the row whose model is the teacher.
        against: the row that it is compared with.
        network: `unet` is the plain one.
    """

    labelled: str | None
    changed: dict[str, Any] = field(default_factory=dict)
    of: str | None = None
    against: str | None = None
    network: Literal["s4m", "unet"] = "s4m"


SHARES = ("5%", "10%", "20%", "30%")
PARTS: dict[str, dict[str, Any]] = {
    "labelled images alone": {"unsupervised": 0.0},
    "nothing pasted": {"arp": "none"},
    "SAM redraws": {"closer_looks": 12, "accept": 0.5},
}
TEACHERS: dict[str, dict[str, Any]] = {
    "head from random weights": {"pretrained_head": False},
    "distillation": {"distillation": 1.0},
}


def _rows() -> Iterator[tuple[str, Row]]:
    teaches, follows = {"stage": "teacher"}, {"stage": "student"}
    for share in SHARES:
        teacher = f"{share}: teacher"
        yield f"{share}: U-Net", Row(share, against=teacher, network="unet")
        yield teacher, Row(share, teaches)
        yield f"{share}: student", Row(share, follows, of=teacher, against=teacher)
    for part, changed in PARTS.items():
        yield f"10%: student, {part}", Row("10%", follows | changed, of="10%: teacher", against="10%: student")
    for part, changed in TEACHERS.items():
        yield f"10%: teacher, {part}", Row("10%", teaches | changed, against="10%: teacher")
    yield "all: U-Net", Row(None, against="all: teacher", network="unet")
    yield "all: teacher", Row(None, teaches)


ROWS = dict(_rows())
"""In the order of the table."""


@dataclass(kw_only=True)
class Config(TrainingOptions):
    """Teacher and student at several labelled shares."""

    minutes: float = 4.0
    """Of each row: of a teacher, and of a student on top of its teacher's."""
    steps: int | None = None
    """Train each row for so many steps instead."""
    batch: int = 4
    size: int = 256
    flips: Literal["horizontal", "all"] = "horizontal"
    scenes: bool = False
    """Draw procedural scenes of three categories into DATA where they are not there yet."""


def write_instance_scenes(folder: Path, train: int = 800, val: int = 48, test: int = 100, size: int = 128) -> Path:
    """Procedural scenes with instance masks of three categories, as a manifest."""
    if (folder / "manifest.json").is_file():
        return folder
    names = ("background", *SCENE_CATEGORIES)
    table = torch.zeros(len(CATEGORY_NAMES), dtype=torch.long)
    for category, shapes in enumerate(SCENE_CATEGORIES.values(), start=1):
        table[[CATEGORY_NAMES.index(name) for name in shapes]] = category
    samples: list[Sample] = []
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    for start in range(0, len(splits), 16):
        scenes = render(16, size, seed=start, max_objects=8, difficulty=0.3)
        own = table[scenes.categories]
        for row, split in enumerate(splits[start : start + 16]):
            ids = scenes.instances[row].numpy()
            chosen = {k: int(own[row, k - 1]) for k in np.unique(ids).tolist() if k and own[row, k - 1]}
            name = f"{split}-{start + row:04d}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            pixels = (scenes.images[row].permute(1, 2, 0) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            write_mask(folder / "masks" / f"{name}.png", np.where(np.isin(ids, list(chosen)), ids, 0).astype(np.uint16))
            labels = Labels(Mask(f"masks/{name}.png", "instance", chosen))
            samples.append(Sample(name, f"images/{name}.png", split, labels, (size, size)))
    Dataset(folder, names, tuple(samples)).save()
    return folder


class Bench:
    """Trainings and their scores, each made when it is first needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.scenes:
            write_instance_scenes(config.data)
        self.dataset = Dataset.load(config.data)
        part = self.dataset.split(config.split)
        self.scored = part.with_samples([sample for sample in part if is_labelled(sample)])

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """Train and score one row."""
        row = ROWS[name]
        if row.of is not None:
            self.run(row.of, seed)
        started = time.monotonic()
        if row.network == "unet":
            found: Iterable[list[Detection]] = unet_objects(
                train_unet(self.config, self.dataset, row, seed), self.scored
            )
        else:
            found = objects_of(self.run(name, seed), self.scored)
        minutes = (time.monotonic() - started) / 60
        return {"minutes": minutes, **self.scores(list(found), name)}

    def run(self, name: str, seed: int) -> Path:
        """A finished run; one that was killed goes on."""
        config, row = self.config, ROWS[name]
        out = config.out / f"run-{slug(name)}-s{seed}"
        if not (out / "report.html").is_file():
            teacher: dict[str, Any] = {} if row.of is None else {"teacher": self.run(row.of, seed)}
            length: dict[str, Any] = {"steps": config.steps} if config.steps else {"minutes": config.minutes}
            s4m.main(
                s4m.Config(
                    data=config.data,
                    out=out,
                    labelled=row.labelled,
                    batch=config.batch,
                    size=config.size,
                    flips=config.flips,
                    sam=config.sam,
                    seed=seed,
                    resume=out.exists(),
                    **length,
                    **row.changed,
                    **teacher,
                )
            )
        return out

    def scores(self, detections: list[list[Detection]], title: str) -> dict[str, Any]:
        """Scores of all images, and the AP of each that shows an object."""
        names = self.dataset.categories
        truths, sizes = [], []
        for sample in self.scored:
            ids, categories = read_ids(self.scored, sample)
            truths.append(coco.of_ids(ids, categories))
            sizes.append((ids.shape[1], ids.shape[0]))
        images = {}
        with progress(len(truths), f"{title}: scores") as advance:
            for sample, true, found, size in zip(self.scored, truths, detections, sizes, strict=True):
                if true:
                    images[sample.id] = coco.scores([true], [found], [size], names)["ap"]
                advance(1)
        every = coco.scores(truths, detections, sizes, names)
        more = beyond_ap.scores(truths, detections, sizes, names, InstancePredictor.options["threshold"])
        shown = {key: every[key] for key in ("ap", "ap50", "ap75", "box_ap")}
        return {**shown, **{key: more[key] for key in ("ap_all", "f1", "ceiling")}, "images": images}


def objects_of(run: Path, part: Dataset) -> Iterator[list[Detection]]:
    """What the model of a run finds in each image."""
    for prediction in api.load(run, device="cpu").predict(part.image_path(sample) for sample in part):
        assert isinstance(prediction, InstancePrediction)
        yield list(prediction.detections)


# ------------------------------------------------------------------------------------------------------------ U-Net

BACKGROUND, INSIDE, BORDER = range(3)

BORDER_REACH = 4.0
"""Pixels of the canvas over which an inside grows at most."""


class UNet(nn.Module):
    """After Ronneberger et al. 2015, with batch normalisation and padding: four halvings, 16 to 256 channels.

    Args:
        zoom: pixels of the canvas along a pixel of the image.
    """

    def __init__(self, classes: int, zoom: float) -> None:
        super().__init__()
        self.zoom = zoom
        widths = (16, 32, 64, 128, 256)
        self.down = nn.ModuleList(_two(before, after) for before, after in zip((3, *widths), widths))
        self.up = nn.ModuleList(_two(wide + narrow, narrow) for narrow, wide in pairwise(widths))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1, sides multiples of 16 → (B, classes, H, W)."""
        kept: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            kept.append(x)
        for block, skip in zip(reversed(self.up), reversed(kept[:-1])):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="bilinear"), skip], 1))
        return self.head(x)


def _two(before: int, after: int) -> nn.Sequential:
    """Two convolutions, from so many channels to so many."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def train_unet(config: Config, dataset: Dataset, row: Row, seed: int) -> UNet:
    """A plain U-Net, from the images, crops and colours that a teacher sees, for as long."""
    if len(dataset.categories) > 2:
        raise SystemExit("the row U-Net is for one category; leave it out with --rows")
    torch.manual_seed(seed)
    train = keep_labels(dataset.split("train"), row.labelled, seed)
    labelled = train.with_samples([sample for sample in train if is_labelled(sample)])
    zoom = measured_zoom(labelled, config.size)
    crop = crop_at(zoom, config.size, turns_of(config.flips))
    network = UNet(3, zoom).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    weight = torch.ones(3)
    weight[BORDER] = 3.0  # a border is thin
    generator, began, step, done = torch.Generator().manual_seed(seed), time.monotonic(), 0, 0.0
    with (
        InstanceLoader(labelled, config.size, config.batch, augment=crop, seed=seed, workers=1) as loader,
        progress(100, f"U-Net, {row.labelled or 'all'}, seed {seed}") as advance,
    ):
        while done < 1:
            batch = loader.batch(step)
            truth = classes_of(batch.instances).where(batch.inside, torch.tensor(-1))
            logits = network(labelled_view(batch.images, generator))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits, truth, weight, ignore_index=-1).backward()
            optimizer.step()
            step += 1
            before = done
            done = min(1.0, step / config.steps if config.steps else (time.monotonic() - began) / 60 / config.minutes)
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - done) ** 0.9
            advance(int(100 * done) - int(100 * before))
    return network.eval()


def classes_of(ids: Tensor) -> Tensor:
    """(B, S, S) instance ids → the class of each pixel; a border is a pixel of an object that touches something else within one pixel."""
    padded = F.pad(ids.float()[:, None], (1, 1, 1, 1), mode="replicate")
    differs = (F.max_pool2d(padded, 3, 1) != ids[:, None]) | (-F.max_pool2d(-padded, 3, 1) != ids[:, None])
    return torch.where(ids > 0, torch.where(differs[:, 0], BORDER, INSIDE), BACKGROUND)


@torch.inference_mode()
def unet_objects(network: UNet, part: Dataset) -> Iterator[list[Detection]]:
    """The objects of each image, see :func:`grown_parts`."""
    for sample in part:
        image = part.pixels(sample)
        height, width = image.shape[:2]
        sides = [max(16, 16 * round(side * network.zoom / 16)) for side in (height, width)]
        pixels = np.array(Image.fromarray(image).resize((sides[1], sides[0]), Image.Resampling.BILINEAR))
        logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
        yield grown_parts(logits[0].softmax(0).numpy(), (height, width))


def grown_parts(probability: NDArray[np.floating], size: tuple[int, int]) -> list[Detection]:
    """Objects of class probabilities (3, h, w) on a canvas, in an image of ``size`` (H, W).

    Connected parts of the inside, on the canvas, where borders of a pixel keep them apart; grown over the border by the nearest. The score
    is the mean probability of being an object.
    """
    best = probability.argmax(0)
    parts: Any = ndimage.label(best == INSIDE)
    grown: Any = ndimage.distance_transform_edt(parts[0] == 0, return_indices=True)
    on_canvas = np.where((best == BACKGROUND) | (grown[0] > BORDER_REACH), 0, parts[0][tuple(grown[1])])
    ids = np.asarray(Image.fromarray(on_canvas.astype(np.int32)).resize(size[::-1], Image.Resampling.NEAREST))
    scores: Any = ndimage.mean(1 - probability[BACKGROUND], on_canvas, np.arange(1, parts[1] + 1))
    found = coco.of_ids(ids, [1] * parts[1], scores)
    return sorted((one for one in found if one.area >= SMALLEST_OBJECT), key=lambda one: -one.score)


# ------------------------------------------------------------------------------------------------------------ table


def summarise(rows: Rows) -> dict[str, dict[str, Any]]:
    """Means over the draws, and how far a row is ahead of the one that it is compared with."""
    figures: dict[str, dict[str, Any]] = {}
    facts = ("ap", "ap50", "ap75", "box_ap", "ap_all", "f1", "ceiling", "minutes")
    for name, mine in by_name(rows).items():
        figures[name] = {key: float(np.mean([row[key] for row in mine.values()])) for key in facts}
        figures[name]["seeds"] = [row["ap"] for row in mine.values()]
        against = ROWS[name].against
        common = [seed for seed in mine if (against, seed) in rows]
        if against is not None and common:
            ids = sorted(mine[common[0]]["images"])
            own, other = ([[rows[of, s]["images"][i] for i in ids] for s in common] for of in (name, against))
            figures[name]["ahead"] = [100 * value for value in paired_bootstrap(own, other)]
    return figures


def main(config: Config) -> None:
    refuse_unknown("--rows", config.rows, ROWS)
    settings = config.start()
    bench = Bench(config)
    wanted = [(name, seed) for seed in config.seeds for name in ROWS if not config.rows or name in config.rows]
    figures = summarise(rows_of(config.out, ROWS, wanted, bench.row))
    publish(config, table(config, figures), settings, rows=figures)


def table(config: Config, figures: dict[str, dict[str, Any]]) -> Table:
    length = f"{config.steps} steps" if config.steps else f"{config.minutes:g} minutes"
    return Table(
        f"{config.data_name}, {config.split} split, {length} of each row, batch {config.batch}",
        ["labelled: row", "AP", "AP50", "AP75", "AP of all", "F1", "ahead of", "by x 100", "draws", "minutes"],
        [_cells(name, row) for name, row in figures.items()],
        "AP: of the best 100 detections of each image; the truth itself has "
        + ", ".join(sorted({f"{row['ceiling']:.3f}" for row in figures.values()}))
        + ". Ahead: in the mean of the AP of each image. Minutes are of the call that finished a row.",
    )


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    return [
        name,
        *(f"{row[key]:.3f}" for key in ("ap", "ap50", "ap75", "ap_all", "f1")),
        (ROWS[name].against or "") if "ahead" in row else "",
        interval(row.get("ahead"), digits=1),
        each_seed(row["seeds"]),
        f"{row['minutes']:.1f}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
