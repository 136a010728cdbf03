"""Helping with the labelling: which masks are wrong, what to label next, and how much more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.api.data import as_dataset, require_data
from maskwright.api.progress import Progress, stages_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName
from maskwright.errors import DataError, MaskwrightError, require

if TYPE_CHECKING:
    import torch

    from maskwright.data.dataset import Dataset
    from maskwright.methods.curate.audit_files import Applied, AuditResult
    from maskwright.methods.curate.budget import BudgetResult
    from maskwright.methods.curate.suggestions import NextResult
    from maskwright.methods.semantic.predictor import SegmenterPredictor


def next_labels(
    data: str | Path | Dataset,
    out: str | Path | None = None,
    *,
    run: str | Path | None = None,
    count: int = 20,
    split: str = "train",
    costs: str | Path | None = None,
    sam: str | Path = "nano",
    group: str | None = None,
    table: str | Path | None = None,
    column: str | None = None,
    seed: int = 0,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> NextResult:
    """The images that are worth labelling next, in order, each with the kind of label that is worth most per second there.

    Half of them stand for many images without a label, by frozen features of a SAM, half are random; with a run, some are those that its
    model is unsure about. A small model that learns from the labels that there are tells what is in an image, for the kind of label.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset``; it stays as it is.
        out: folder for ``next.json`` and ``report.html``, over those of before; left out, nothing is written.
        run: a semantic model (recipe ``samix``); every second image that is not random is one that it is unsure about.
        count: how many images.
        split: where they are chosen.
        costs: a JSON file of seconds by kind of label, such as ``{"box": 6, "mask": 45}``.
        group, table, column: images of one group (a patient, a film) come after those of groups without labels; see :func:`audit`.
        sam, seed, format, image_reading, device, progress: see :func:`audit`.

    Raises:
        DataError: nothing is left to label, files that cannot be read.
        WeightsError: the SAM or the run cannot be loaded.

    >>> first = maskwright.next_labels("polyps").suggestions[0]
    >>> first.id, first.kind, first.reason
    ('k0423', 'box', 'stands for many images; nothing is labelled yet.')
    """
    from maskwright.methods.curate.costs import Costs

    require({f"-n {count}: must be at least 1": count >= 1})
    require_data(data)
    seconds = Costs.load(costs)
    with stages_of(progress) as stage:
        from maskwright.data.groups import Grouping
        from maskwright.methods.curate.material import load_sam, prepare
        from maskwright.methods.curate.suggestions import LEARNERS, suggest, write_suggestions

        dataset = as_dataset(data, format, image_reading)
        model = None if run is None else _semantic(run, device)
        grouping = Grouping(group, table, column)
        material = prepare(load_sam(sam, device), dataset, grouping=grouping, most=LEARNERS, seed=seed, stage=stage)
        result = suggest(material, split=split, count=count, costs=seconds, model=model, seed=seed, stage=stage)
        if out is not None:
            write_suggestions(material, result, Path(out))
        return result


def audit(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    run: str | Path | None = None,
    sam: str | Path = "nano",
    most: int = 100,
    splits: Sequence[str] = (),
    group: str | None = None,
    table: str | Path | None = None,
    column: str | None = None,
    seed: int = 0,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> AuditResult:
    """Rank the masks of a dataset by how wrong they look, and propose repairs.

    Small models on frozen features of a SAM are trained on four fifths of the masks and judge the last fifth, in turns; SAM answers the
    box of each object; what that says about a mask is learnt from errors that are planted in copies of the masks.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset`` with at least 20 masks; it stays as it is.
        out: new folder for ``audit.json``, ``repairs.txt``, ``report.html`` and the repaired masks.
        run: a semantic model (recipe ``samix``); it judges the images that it did not learn from, too, and its probability counts half.
        sam: ``nano`` (bundled), a Hugging Face id, a folder, or an official ``.pt`` file.
        most: how many masks are written, with their repairs and pictures.
        splits: only masks of these splits; left out, of all.
        group: a regular expression that is sought in each image's path; images of one group (a patient, a film) are never judged by a
            model that learnt from others of the group.
        table, column: instead a CSV file, with a row for each image, and its column that names the group.
        seed: of the models, and of the planted errors.
        format: what it is read as, where several fit.
        image_reading: which page, channels and range of intensity of the image files count.
        device: of the SAM; left out, a GPU if there is one.
        progress: True shows bars; or what to call as ``progress(done, total)``, for each part of the work from the beginning.

    Raises:
        DataError: too few masks, files that cannot be read, a folder that is there already.
        WeightsError: the SAM or the run cannot be loaded.

    >>> maskwright.audit("polyps", "polyps-audit").suspects[0]["kind"]
    'missed'
    """
    from maskwright.data.new_folder import require_new

    require({f"--most {most}: must be at least 1": most >= 1})
    require_data(data)
    dataset = as_dataset(data, format, image_reading)
    require_new(out, dataset.root)
    with stages_of(progress) as stage:
        from maskwright.data.groups import Grouping
        from maskwright.methods.curate.audit import LEAST, judge
        from maskwright.methods.curate.audit_files import write_audit
        from maskwright.methods.curate.material import learnt, load_sam, prepare, run_probabilities

        masks = [s for s in dataset if s.labels.mask is not None and (not splits or s.split in splits)]
        if len(masks) < LEAST:
            where = f" in {' and '.join(splits)}" if splits else ""
            remedy = "look at so few yourself, for example with `maskwright label`"
            raise DataError(
                [f"{len(masks)} masks{where}; at least {LEAST} are needed to judge them by each other; {remedy}"]
            )
        model = None if run is None else _semantic(run, device)
        material = prepare(
            load_sam(sam, device), dataset.with_samples(masks), grouping=Grouping(group, table, column), stage=stage
        )
        also, heard, notes = None, None, []
        if model is not None and run is not None:
            heard = ~learnt(Path(run), material.dataset)
            also = run_probabilities(model, material.dataset, material.features.cells, stage=stage)
            notes.append(f"{run} judged the {int(heard.sum())} of {len(heard)} images that it has not learnt from.")
        suspects = judge(material, also=also, heard=heard, seed=seed, stage=stage)
        return write_audit(
            material.sam,
            material.dataset,
            suspects,
            Path(out),
            most=most,
            judged=len(masks),
            notes=notes,
            settings={"sam": str(sam), "run": None if run is None else str(run), "seed": seed},
            progress=None if stage is None else lambda done, total: stage("repairing masks", done, total),
        )


def budget(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    costs: str | Path | None = None,
    orders: int = 3,
    minutes: float | None = None,
    sam: str | Path = "nano",
    group: str | None = None,
    table: str | Path | None = None,
    column: str | None = None,
    seed: int = 0,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> BudgetResult:
    """Foretell what twice the labels would bring.

    Small models on frozen features of a SAM are trained on nested shares of the labelled images of ``train``, in several orders, and scored
    on the masks of ``val`` (else ``test``, else a quarter of the masks, held out). Curves through the scores foretell the double; their
    band is as wide as they were wrong about doublings that are known.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset``; it stays as it is.
        out: folder for ``budget.json`` and ``report.html``; trainings are kept there, and the same call goes on with what is missing.
        costs: a JSON file of seconds by kind of label, such as ``{"box": 6, "mask": 45}``.
        orders: in which labels are added; of several the mean counts.
        minutes: for all trainings of this call; left out, until they are done.
        sam, group, table, column, seed, format, image_reading, device: see :func:`audit`.
        progress: True shows bars; or what to call as ``progress(done, total)``, for each part of the work from the beginning.

    Raises:
        DataError: too few labelled images or masks to score on, files that cannot be read.
        MaskwrightError: a folder of other data or settings, too few minutes.

    >>> print(*maskwright.budget("polyps", "polyps-budget").sentences)
    40 labelled images, about 17 minutes of labelling: Dice 0.661 on split 'val', of a small model on frozen features. ...
    """
    from maskwright.methods.curate.costs import Costs

    require(
        {
            f"--orders {orders}: must be at least 1": orders >= 1,
            f"--minutes {minutes}: must be above 0": minutes is None or minutes > 0,
        }
    )
    require_data(data)
    seconds = Costs.load(costs)
    with stages_of(progress) as stage:
        from maskwright.data.groups import Grouping
        from maskwright.methods.curate.budget import budget as run_budget
        from maskwright.methods.curate.material import load_sam, prepare

        dataset = as_dataset(data, format, image_reading)
        material = prepare(load_sam(sam, device), dataset, grouping=Grouping(group, table, column), stage=stage)
        return run_budget(
            material,
            Path(out),
            seconds,
            orders=orders,
            minutes=minutes,
            seed=seed,
            settings={"sam": str(sam)},
            stage=stage,
        )


def _semantic(run: str | Path, device: str | torch.device | None) -> SegmenterPredictor:
    """The segmenter of a run. Raises MaskwrightError for a run of another kind."""
    from maskwright.api.models import load
    from maskwright.methods.semantic.predictor import SegmenterPredictor

    model = load(run, device=device)
    if not isinstance(model, SegmenterPredictor):
        raise MaskwrightError(
            f"{run}: a run of the recipe samix is needed, this one is of {model.recipe}; leave out --run"
        )
    if model.crop is not None:
        raise MaskwrightError(
            f"{run}: learnt from crops of {model.crop:g} pixels, and whole images are looked at here; leave out --run"
        )
    return model


def apply_repairs(
    data: str | Path | Dataset,
    repairs: str | Path,
    out: str | Path,
    *,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
) -> Applied:
    """Write a copy of a dataset with the repairs of an audit that were accepted, and a list of them.

    Args:
        data: the dataset that was audited; it stays as it is.
        repairs: the audit's ``repairs.txt``, with ``yes`` where a repair is accepted.
        out: new folder. It is there whole or not at all; ``repaired.json`` in it lists what was changed.
        format, image_reading: see :func:`audit`.

    Raises:
        DataError: no repair is accepted, masks have changed since the audit, lines that cannot be read; all at once.

    >>> len(maskwright.apply_repairs("polyps", "polyps-audit/repairs.txt", "polyps-repaired").changes)
    12
    """
    from maskwright.methods.curate.audit_files import apply_repairs as apply

    if Path(repairs).is_dir():
        raise DataError([f"{repairs}: is a folder; give the repairs.txt in it"])
    return apply(as_dataset(data, format, image_reading), Path(repairs), Path(out))
