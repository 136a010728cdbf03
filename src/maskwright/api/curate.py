"""Helping with the labelling: which masks are wrong, what to label next, and how much more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.api.data import as_dataset
from maskwright.api.progress import Progress, stages_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName
from maskwright.errors import DataError, MaskwrightError, require

if TYPE_CHECKING:
    import torch

    from maskwright.data.dataset import Dataset
    from maskwright.methods.curate.audit_files import Applied, AuditResult
    from maskwright.methods.semantic.predictor import SegmenterPredictor


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
    require({f"--most {most}: must be at least 1": most >= 1})
    with stages_of(progress) as stage:
        from maskwright.data.groups import Grouping
        from maskwright.methods.curate.audit import LEAST, judge
        from maskwright.methods.curate.audit_files import write_audit
        from maskwright.methods.curate.material import learnt, load_sam, prepare, run_probabilities

        dataset = as_dataset(data, format, image_reading)
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


def _semantic(run: str | Path, device: str | torch.device | None) -> SegmenterPredictor:
    """The segmenter of a run. Raises MaskwrightError for a run of another kind."""
    from maskwright.api.models import load
    from maskwright.methods.semantic.predictor import SegmenterPredictor

    model = load(run, device=device)
    if not isinstance(model, SegmenterPredictor):
        raise MaskwrightError(
            f"{run}: a run of the recipe samix is needed, this one is of {model.recipe}; leave out --run"
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
