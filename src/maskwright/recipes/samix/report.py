"""The files that a SAMIX run ends with: the exported model with its card, the pseudo-masks, and the report."""

from __future__ import annotations

import tempfile
import time
from collections import Counter, defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskwright.data import pictures
from maskwright.data.files import write_atomic
from maskwright.data.labels import Box, Kind, Point, Scribble
from maskwright.data.mask_files import write_mask
from maskwright.engine.model import describe
from maskwright.engine.outcome import Outcome
from maskwright.engine.report import Picture, Report, seconds_of_chart
from maskwright.engine.run import read_metrics
from maskwright.engine.scoring import true_mask
from maskwright.engine.state import seeded
from maskwright.engine.values import strict_json
from maskwright.methods.in_context import files as in_context_files
from maskwright.methods.in_context.rows import resize
from maskwright.recipes.samix.trainer import Trainer

PSEUDO = "pseudo"
"""Name of the folder of pseudo-masks in the run directory."""

POLICY_CHARTS = {
    "Policy: mean rewards": ("policy_true", "policy_iou", "policy_view", "policy_weak"),
    "Policy: correlation of rewards with the true Dice": ("policy_iou_correlation", "policy_view_correlation"),
    "Policy: entropy per choice": ("policy_entropy",),
}
HEAD_ROOM = {
    "heuristic_dice": "most similar",
    "policy_dice": "policy",
    "oracle_dice": "oracle (sees the truth)",
    "head_room_captured": "head-room captured",
}
"""Scores of ``ReferencePolicy.assess``, with their headings in the report."""


def reserve_ending(trainer: Trainer) -> None:
    """By the clock: set time aside for what follows the last step, as measured on one batch."""
    timer, count = trainer.session.timer, min(trainer.config.batch, len(trainer.train))
    if not timer.by_clock:
        return
    looks = []
    for _ in range(3):  # the first one also reads the images, and makes ready what is not ready yet
        began = time.monotonic()
        batch = trainer.loader.take(range(count)).to(trainer.device)
        with torch.no_grad():
            maps = resize(trainer.teacher.model(batch.images), trainer.config.size // 4).softmax(1)
        looks.append((time.monotonic() - began) / count)
    look, began = min(looks), time.monotonic()
    width, height = batch.sizes[0].tolist()
    with tempfile.TemporaryDirectory() as folder:
        write_mask(Path(folder) / "mask.png", _category_ids(maps[0], (height, width)))
    draw = time.monotonic() - began
    # Pseudo-masks are predicted, blended and drawn; the report reads about as many images as twenty looks.
    timer.reserves["pseudo-masks"] = len(trainer.labeller.pseudo_masks.newest) * (1.2 * look + draw) / 60
    timer.reserves["report"] = (6 * seconds_of_chart() + 20 * look + 3) / 60
    # Once for the kept model, and, until one is measured, for the last validation.
    timer.reserves["score"] = (len(trainer.val) + min(64, len(trainer.masked))) * look / 60
    timer.reserves.setdefault("validation", len(trainer.val) * look / 60)
    if trainer.policy is not None and len(trainer.val) and len(trainer.labeller.pool) and trainer.masked:
        timer.reserves["references"] = 1.2 * len(trainer.val) * _seconds_in_context(trainer) / 60


def _seconds_in_context(trainer: Trainer) -> float:
    """Time of ``Trainer.decide_looks`` for one image, as measured on mask images. The segmenter, which says what is looked for, has learnt
    nothing yet: the categories that the labels name take its place."""
    batch = trainer.loader.take(trainer.masked[: trainer.config.batch]).to(trainer.device)
    named = 9.0 * (batch.present > 0)[..., None, None]
    logits = named + torch.rand(*named.shape[:2], 16, 16, generator=seeded(0, 0, 0)).to(named.device)
    began = time.monotonic()
    trainer.masks_in_context(batch, lambda _: logits)
    return (time.monotonic() - began) / len(batch)


def keep_model(trainer: Trainer) -> dict[str, Any]:
    """Fill the teacher with the model that was kept, and note its score on the validation split against what costs nothing.

    Returns:
        Its scores, as ``SegmentationMetrics.compute`` gives them; empty without images for validation.
    """
    best, session = trainer.best, trainer.session
    best.restore()
    if trainer.val_loader is None or best.step is None:
        session.outcome = Outcome("Dice", None, steps=session.clock)
        return {}
    constants = constant_masks(trainer)
    step, scores = trainer.newest_scores
    if step != best.step:  # else the kept model is the one that was validated last, in this session
        (scores,) = trainer.val_scores(lambda batch: [trainer.predict(batch.images)])
    others = trainer.val_scores(lambda batch: [mask.expand(len(batch), -1, -1) for mask in constants.values()])
    session.outcome = Outcome(
        "Dice",
        scores["dice"],
        {name: other["dice"] for name, other in zip(constants, others)},
        step=best.step,
        steps=session.clock,
        keep=trainer.config.keep,
        images=scores["images"],
        advice="look at the pseudo-masks in the report; then train longer, or give more images a mask",
    )
    return scores


def constant_masks(trainer: Trainer, limit: int = 64) -> dict[str, torch.Tensor]:
    """What needs no network, as one mask (S, S) for every image: no object at all, and the average mask of the training images.

    Args:
        limit: training images with masks that are averaged, at most.
    """
    size, count, batch = trainer.config.size, len(trainer.categories), trainer.config.batch
    constants = {"all background": torch.zeros(size, size, dtype=torch.long)}
    if masked := trainer.masked[:: -(-len(trainer.masked) // limit) or 1]:
        votes = torch.zeros(count, size, size)
        for start in range(0, len(masked), batch):
            target = trainer.loader.take(masked[start : start + batch]).target
            votes += torch.stack([(target == category).sum(0) for category in range(count)])
        constants["the average training mask"] = votes.argmax(0)
    return constants


def write_model(trainer: Trainer) -> None:
    """Write ``RUN/model``: the mean teacher, as ``maskwright.load`` reads it, and beside it SAM, pool and policy for use in context."""
    config = trainer.config
    description = describe(
        "samix",
        trainer.categories,
        config.size,
        data=trainer.session.data_digest,
        image_reading=trainer.session.image_reading,
        **({"crop": trainer.session.crop} if trainer.session.crop else {}),
        segmenter=trainer.segmenter.description(),
    )
    beside: dict[str, dict[str, torch.Tensor]] = {}
    if len(trainer.labeller.pool):
        description["in_context"], beside = in_context_files.pack(
            trainer.labeller,
            config.sam,
            trainer.sam_parameters,
            lambda position: trainer.train[position].id,
            lambda position, category: _reference_picture(trainer, position, category),
        )
        description["in_context"]["data"] = trainer.session.data_digest
    trainer.session.run.save_model(trainer.teacher.model.state_dict(), description, _card(trainer), beside)


def _reference_picture(trainer: Trainer, position: int, category: int, side: int = 128) -> bytes:
    """A small JPEG of a training image with the mask of one category painted over it."""
    item = trainer.loader.item(position)
    image = pictures.thumbnail(item.image, side)
    mask = item.mask
    if mask is None:
        mask = trainer.labeller.pseudo_masks.newest[position].maps.argmax(0).byte().cpu().numpy()
    mask = pictures.thumbnail_mask(mask, (image.shape[1], image.shape[0]))
    mask = np.where(mask == category, mask, 0).astype(np.uint8)
    buffer = BytesIO()
    picture = pictures.overlay(image, mask, pictures.palette(len(trainer.categories)))
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _card(trainer: Trainer) -> str:
    config, mix = trainer.config, Counter(str(Kind(k)) for k in trainer.kinds.tolist())
    lines = [
        "# A semantic segmenter made with maskwright",
        "",
        f"Categories: {', '.join(trainer.categories)}. Canvas: {config.size} pixels.",
        f"Recipe: samix (Hu et al., CVPR 2026), SAM weights `{config.sam}`, {trainer.stage.step} steps of {config.batch} images, "
        f"seed {config.seed}.",
        f"Trained on {len(trainer.train)} images of `{config.data.name}`: {', '.join(f'{n} {k}' for k, n in mix.most_common())}.",
    ]
    if trainer.session.outcome is not None:
        lines += ["", *trainer.session.outcome.sentences]
    lines += [
        "",
        "```python",
        "import maskwright",
        "predictions = maskwright.load('RUN').predict(['image.jpg'])",
        "```",
        "",
    ]
    return "\n".join(lines)


def write_pseudo_masks(trainer: Trainer) -> None:
    """Write ``RUN/pseudo``: the last pseudo-mask of each weakly labelled image (SAM's answer blended with the teacher's prediction) as a
    PNG of category ids in the image's size, and an index.
    """
    if not trainer.labeller.pseudo_masks.newest:
        return
    folder = trainer.session.run.folder / PSEUDO
    folder.mkdir(exist_ok=True)
    index: dict[str, Any] = {}
    for position, answer in sorted(trainer.labeller.pseudo_masks.newest.items()):
        sample = trainer.train[position]
        width, height = trainer.sizes[position]
        path = folder / f"{sample.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, _category_ids(answer.maps, (height, width)))
        index[sample.id] = {
            "kind": str(Kind(int(trainer.kinds[position]))),
            "confidence": round(answer.confidence, 4),
            "references": [trainer.train[i].id for i in answer.references],
        }
    text = strict_json(
        {"categories": trainer.categories, "data": trainer.session.data_digest, "samples": index}, PSEUDO, 1
    )
    write_atomic(folder / "index.json", text)


def _category_ids(maps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) probabilities → category ids (H, W) of ``size``; one category at a time, as an image may be large."""
    best = torch.zeros(size)
    mask = torch.zeros(size, dtype=torch.uint8)
    for category, low in enumerate(maps.float().cpu()):
        probability = torch.nn.functional.interpolate(low[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        wins = probability > best
        best[wins], mask[wins] = probability[wins], category
    return mask.numpy()


def write_report(trainer: Trainer, val_scores: dict[str, Any], in_context: dict[str, float]) -> None:
    """Write ``RUN/report.html``: the outcome, curves, the label mix, pseudo-masks with their references, best and worst predictions.

    Args:
        val_scores: see ``keep_model``.
        in_context: see ``Trainer.decide_looks``.
    """
    config = trainer.config
    report = Report(
        f"maskwright · samix · {config.data.name}",
        f"{config.out} — {trainer.stage.step} steps, seed {config.seed}, SAM {config.sam}",
    )
    metrics = read_metrics(config.out)
    losses: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    scores: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    policy: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in metrics:
        for name, value in entry.items():
            if name in ("step", "lr", "time", *HEAD_ROOM):
                continue
            if name.startswith("policy_"):
                policy[name].append((entry["step"], value))
                continue
            curves = scores if name.startswith("val_") else losses
            curves[name][0].append(entry["step"])
            curves[name][1].append(value)
    outcome = trainer.session.outcome
    if outcome is not None:
        report.outcome(outcome)
    if scores:
        report.curves("Validation", dict(scores), marks=outcome.marks if outcome is not None else {})
    report.curves("Losses", dict(losses))
    _policy_curves(report, policy, metrics)
    if in_context and trainer.policy is not None:
        looks = trainer.policy.settings.looks
        report.table(
            "SAM in context: mean Dice on the validation images",
            ["the policy looks before it chooses", "it chooses without looking", "the model"],
            [[*(f"{in_context[way]:.3f}" for way in ("looking", "unseen")), "looks" if looks else "does not look"]],
        )
    mix = Counter(Kind(k) for k in trainer.kinds.tolist())
    confidence: dict[int, list[float]] = defaultdict(list)
    for position, answer in trainer.labeller.pseudo_masks.newest.items():
        confidence[int(trainer.kinds[position])].append(answer.confidence)
    rows = [
        [str(kind), mix[kind], f"{np.mean(confidence[kind]):.2f}" if confidence[kind] else "–"]
        for kind in sorted(mix, reverse=True)
    ]
    report.table("Training images by finest label", ["label", "images", "mean confidence of pseudo-mask"], rows)
    _pseudo_pictures(trainer, report)
    _prediction_pictures(trainer, report, val_scores)
    report.save(config.out / "report.html")


def _policy_curves(
    report: Report, policy: dict[str, list[tuple[float, float]]], metrics: list[dict[str, float]]
) -> None:
    """Curves of the policy's learning, and the share of the head-room that it captured at the end of its warm-up."""
    for title, names in POLICY_CHARTS.items():
        curves = {
            name: ([s for s, _ in policy[name]], [v for _, v in policy[name]]) for name in names if name in policy
        }
        if curves:
            report.curves(title, curves)
    assessments = [entry for entry in metrics if "oracle_dice" in entry]
    if assessments:
        columns = [name for name in HEAD_ROOM if name in assessments[-1]]
        report.table(
            "References after the policy's warm-up: mean Dice on a few mask images",
            [HEAD_ROOM[name] for name in columns],
            [[f"{assessments[-1][name]:.3f}" for name in columns]],
        )


def _pseudo_pictures(trainer: Trainer, report: Report, each: int = 4) -> None:
    palette = pictures.palette(len(trainer.categories))
    by_kind: dict[int, list[int]] = defaultdict(list)
    for position in sorted(trainer.labeller.pseudo_masks.newest):
        by_kind[int(trainer.kinds[position])].append(position)
    for kind, positions in sorted(by_kind.items(), reverse=True):
        cards = []
        step = max(1, len(positions) // each)
        for position in positions[::step][:each]:
            sample, item = trainer.train[position], trainer.loader.item(position)
            answer = trainer.labeller.pseudo_masks.newest[position]
            height, width = item.image.shape[:2]
            scale = np.array([width / item.size[0], height / item.size[1]])
            image = pictures.overlay(item.image, _category_ids(answer.maps, (height, width)), palette)
            boxes, points = item.boxes * np.tile(scale, 2), item.points * scale
            lines = [tuple((float(x), float(y)) for x, y in line * scale) for line in item.scribbles]
            picture = pictures.draw_labels(
                np.asarray(image),
                boxes=[Box(*box, category=int(c)) for box, c in zip(boxes.tolist(), item.box_categories)],
                points=[Point(*point, category=int(c)) for point, c in zip(points.tolist(), item.point_categories)],
                scribbles=[Scribble(line, int(c)) for line, c in zip(lines, item.scribble_categories)],
                palette=palette,
            )
            references = ", ".join(trainer.train[i].id for i in answer.references[:4])
            cards.append(
                Picture(
                    np.asarray(picture),
                    f"{sample.id}: confidence {answer.confidence:.2f}"
                    + (f"; references: {references}" if references else ""),
                )
            )
        report.pictures(f"Pseudo-masks of images with: {Kind(kind)}", "The image's own label is drawn on top.", cards)


@torch.no_grad()
def _prediction_pictures(trainer: Trainer, report: Report, val_scores: dict[str, Any], each: int = 6) -> None:
    """Best and worst images of the validation split."""
    places = {sample.id: position for position, sample in enumerate(trainer.val)}
    scores = [(row["dice"], places[row["id"]]) for row in val_scores.get("per_image", []) if row["dice"] is not None]
    if not scores or trainer.val_loader is None:
        return
    scores.sort(key=lambda entry: entry[0])
    palette = pictures.palette(len(trainer.categories))
    for title, part in (
        ("Worst predictions (validation)", scores[:each]),
        ("Best predictions (validation)", scores[::-1][:each]),
    ):
        cards = []
        batch = trainer.val_loader.take([position for _, position in part])
        shown = trainer.predict(batch.images.to(trainer.device)).byte().cpu().numpy()
        for (dice, position), mask in zip(part, shown):
            sample = trainer.val[position]
            image = trainer.val.pixels(sample)
            size = (image.shape[1], image.shape[0])
            prediction = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
            masks = true_mask(trainer.val, sample), prediction
            panels = [np.asarray(pictures.overlay(image, mask, palette)) for mask in masks]
            cards.append(
                Picture(np.concatenate(panels, 1), f"{sample.id}: Dice {dice:.2f} (left truth, right prediction)")
            )
        report.pictures(title, "", cards)
