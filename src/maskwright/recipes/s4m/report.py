"""The files that an S⁴M run ends with: the exported model with its card, and the report."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.instances import Instances, read_ids
from maskwright.data.pictures import overlay_instances, side_by_side
from maskwright.engine.model import describe
from maskwright.engine.outcome import Outcome
from maskwright.engine.report import Picture, Report, seconds_of_chart
from maskwright.engine.run import read_metrics
from maskwright.methods.instances.dense_detections import find_objects
from maskwright.methods.instances.prediction import draw_ids
from maskwright.nets.dense_instances import DenseSegmenter
from maskwright.nets.instance import InstanceSegmenter
from maskwright.recipes.s4m.trainer import Trainer, load_teacher

TEACHER = "teacher"
"""Name of the folder of the teacher's model, if a student followed."""

SCORES = ("ap", "ap50", "ap75", "box_ap")


def reserve_ending(trainer: Trainer) -> None:
    """By the clock: set time aside for what follows the last step, as measured on one image."""
    timer = trainer.session.timer
    if not timer.by_clock:
        return
    sample = (trainer.val if len(trainer.val) else trainer.labelled)[0]
    began = time.monotonic()
    find_objects(trainer.network, trainer.session.dataset.pixels(sample), trainer.crop)
    look = (time.monotonic() - began) / 60
    # The last validation, until one is measured; perhaps the score of the teacher that was given; two dozen images of the report.
    timer.reserves.setdefault("validation", len(trainer.val) * look)
    scores_teacher = trainer.config.stage == "student" and trainer.config.decoder == "queries"
    timer.reserves["score"] = scores_teacher * len(trainer.val) * look
    timer.reserves["report"] = (2 + 6 * seconds_of_chart()) / 60 + 24 * look


def keep_model(trainer: Trainer) -> None:
    """Fill the network with the one that was kept, and note its score on the validation split against what costs nothing."""
    best, session, config = trainer.best, trainer.session, trainer.config
    best.restore()
    if best.step is None:
        session.outcome = Outcome("mask AP", None, steps=session.clock)
        return
    baselines = {"nothing found": 0.0}
    is_teacher = trainer.teacher is not None and best.step == trainer.teacher_kept.get("step")
    teachers = None if is_teacher else _score_of_teacher(trainer)
    if teachers is not None:
        baselines["the teacher alone"] = teachers
    session.outcome = Outcome(
        "mask AP",
        best.score,
        baselines,
        step=best.step,
        steps=session.clock,
        keep=config.keep,
        images=len(trainer.val),
        remark="no student was better than the teacher, which is the model" if is_teacher else "",
        advice="train longer, label more, or use the teacher: it is in RUN/teacher"
        if config.stage == "both"
        else "train longer, label more, or look at the report before you use it",
    )


def _score_of_teacher(trainer: Trainer) -> float | None:
    """The mask AP on the validation split of the teacher that a student followed; None where there was none."""
    if trainer.config.teacher is None or trainer.teacher_kept:
        return trainer.teacher_kept.get("score")
    teacher = load_teacher(trainer.config.teacher, trainer.categories).to(trainer.device)
    return trainer.validate(teacher)["ap"]


def write_model(trainer: Trainer, network: InstanceSegmenter | DenseSegmenter, name: str) -> None:
    """``RUN/model`` or ``RUN/teacher``, as ``maskwright.load`` reads it."""
    config = trainer.config
    description = describe(
        "s4m",
        trainer.categories,
        config.size,
        data=trainer.session.data_digest,
        image_reading=trainer.session.image_reading,
        segmenter=network.description(),
        crop=None if isinstance(network, DenseSegmenter) else trainer.crop,
    )
    trainer.session.run.save_model(network.state_dict(), description, _card(trainer), name=name)


def _card(trainer: Trainer) -> str:
    config = trainer.config
    network = trainer.network
    view = (
        f"whole images at a scale of {network.zoom:g}"
        if isinstance(network, DenseSegmenter)
        else f"tiles of {trainer.crop} pixels on a canvas of {config.size}"
        if trainer.crop
        else f"canvas of {config.size} pixels"
    )
    lines = [
        "# An instance segmenter made with maskwright",
        "",
        f"Categories: {', '.join(trainer.categories[1:])}. Sees: {view}.",
        f"Recipe: s4m (Yoon et al., ICCV 2025), SAM weights `{config.sam}`, {trainer.teacher_stage.step} steps of {config.batch} "
        f"images as a teacher, {trainer.student_stage.step} as a student, seed {config.seed}."
        + (" Its decoder began with the bundled head of `nano`." if trainer.has_head else ""),
        f"Trained on `{config.data.name}`: {len(trainer.labelled)} labelled images"
        + (f", {len(trainer.unlabelled)} others." if trainer.student_stage.step else "."),
    ]
    if trainer.session.outcome is not None:
        lines += ["", *trainer.session.outcome.sentences]
    elif trainer.teacher_kept.get("score") is not None:
        lines.append(f"Validation: mask AP {trainer.teacher_kept['score']:.3f} ({len(trainer.val)} images).")
    lines += [
        "",
        "```python",
        "import maskwright",
        "",
        "for prediction in maskwright.load('RUN').predict(['image.jpg']):",
    ]
    return "\n".join([*lines, "    print(prediction.objects)", "```", ""])


def _kept_scores(trainer: Trainer) -> dict[str, dict[str, float]]:
    """The scores on validation images of the teacher and the student that were kept, if they were scored."""
    scores: dict[str, dict[str, float]] = {}
    kept = {trainer.teacher_kept.get("step"), trainer.best.step}
    for entry in read_metrics(trainer.session.run.folder):
        for stage in ("teacher", "student"):
            if f"val_{stage}_ap" in entry and entry["step"] in kept:
                scores[stage] = {name: entry[f"val_{stage}_{name}"] for name in SCORES}
    return scores


def write_report(trainer: Trainer) -> None:
    """Write ``RUN/report.html``: curves, scores, pseudo-labels before and after refinement, predictions."""
    config = trainer.config
    report = Report(
        f"maskwright · s4m · {config.data.name}",
        f"{config.out} — {trainer.teacher_stage.step} steps of the teacher, {trainer.student_stage.step} of the student, "
        f"seed {config.seed}, SAM {config.sam}",
    )
    outcome = trainer.session.outcome
    if outcome is not None:
        report.outcome(outcome)
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = defaultdict(dict)
    titles = {"val_teacher": "Validation: teacher", "val_student": "Validation: student"}
    titles |= {"teacher": "Losses: teacher", "student": "Losses: student"}
    for entry in read_metrics(trainer.session.run.folder):
        for name, value in entry.items():
            stage = next((key for key in titles if name.startswith(f"{key}_")), None)
            if name == "student_pseudo_labels":
                chart, curve = "Pseudo-labels per unlabelled image", "after refinement"
            elif stage is None:
                continue
            else:
                chart, curve = titles[stage], name.removeprefix(f"{stage}_")
            steps, values = curves[chart].setdefault(curve, ([], []))
            steps.append(entry["step"])
            values.append(value)
    rows = [[stage, *(scores[name] for name in SCORES)] for stage, scores in _kept_scores(trainer).items()]
    if rows:
        columns = ["network", "AP", "AP50", "AP75", "box AP"]
        report.table(
            f"Validation ({len(trainer.val)} images)", columns, rows, "COCO's protocol, 100 detections per image."
        )
    images = [["labelled", len(trainer.labelled)], ["without instance labels", len(trainer.unlabelled)]]
    report.table("Training images", ["images", "number"], images)
    kept = {"teacher": trainer.teacher_kept.get("step")}
    kept["teacher" if trainer.config.stage == "teacher" else "student"] = trainer.best.step
    marks = {titles[f"val_{stage}"]: {"kept": step} for stage, step in kept.items() if step is not None}
    for title, series in curves.items():
        report.curves(title, series, marks=marks.get(title))
    _pseudo_pictures(trainer, report)
    _prediction_pictures(trainer, report)
    report.save(trainer.session.run.folder / "report.html")


def _pseudo_pictures(trainer: Trainer, report: Report, count: int = 8) -> None:
    """Pseudo-labels of a few unlabelled images: as the teacher drew them, and after refinement and pasting."""
    if trainer.teacher is None:
        return
    cards: list[Picture] = []
    with trainer.loader(trainer.unlabelled) as loader:
        step = 0
        while len(cards) < count and step < 8:
            batch = loader.batch(step).to(trainer.device)
            candidates, images, labels = trainer.pseudo_labels(batch)
            for row in range(len(batch)):
                panels = [
                    _overlay(batch.images[row], candidates, row),
                    _overlay(images[row], labels, row),
                ]
                number = int((labels.rows == row).sum())
                name = trainer.unlabelled[int(batch.indices[row])].id
                cards.append(Picture(side_by_side(panels), f"{name}: {number} objects"))
            step += 1
    note = "Left what the teacher drew, right what a student learns from: refined by SAM, with objects pasted from another image."
    report.pictures("Pseudo-labels before and after refinement", note, cards[:count])


def _overlay(image: torch.Tensor, instances: Instances, row: int) -> NDArray[np.uint8]:
    pixels = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    masks = instances.masks[instances.rows == row].cpu().numpy()
    ids = np.zeros(pixels.shape[:2], np.int64)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return overlay_instances(pixels, ids)


def _prediction_pictures(trainer: Trainer, report: Report, count: int = 8) -> None:
    """Truth and prediction of a few validation images."""
    cards = []
    step = max(1, len(trainer.val) // count)
    for sample in list(trainer.val)[::step][:count]:
        image = trainer.val.pixels(sample)
        ids, _ = read_ids(trainer.val, sample)
        objects = [one for one in find_objects(trainer.network, image, trainer.crop) if one.score >= 0.5]
        prediction = draw_ids(objects, (image.shape[1], image.shape[0]))
        panels = [overlay_instances(image, ids), overlay_instances(image, prediction)]
        cards.append(Picture(side_by_side(panels), f"{sample.id}: {int(ids.max())} true, {len(objects)} found"))
    if cards:
        report.pictures(
            "Predictions (validation)", "Left the truth, right what is found with a score of at least .5.", cards
        )
