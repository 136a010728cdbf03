"""One example → a folder: the same things in other images, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.api.data import as_dataset, require_data
from maskwright.api.models import also_written
from maskwright.api.progress import Progress, progress_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName, ToolName
from maskwright.errors import DataError, require

if TYPE_CHECKING:
    import torch

    from maskwright.data.dataset import Dataset
    from maskwright.engine.prediction_folder import Summary


@dataclass(frozen=True)
class FindResult:
    """What :func:`find` did.

    Attributes:
        summary: of the folder: images predicted, skipped and unreadable, and files written.
        verdicts: how many images are ``found``, ``not there`` and ``unsure``.
        notes: what the verdicts rest on, and what was left out, one sentence each.
    """

    summary: Summary
    verdicts: dict[str, int]
    notes: tuple[str, ...]


def find(
    examples: str | Path | Dataset,
    images: str | Path | Sequence[str | Path] | None,
    out: str | Path,
    *,
    alpha: float = 0.1,
    sam: str | Path = "nano",
    scorer: str | Path | None = None,
    split: str | None = None,
    batch: int = 8,
    overlays: bool = True,
    to: ToolName | None = None,
    overwrite: bool = False,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> FindResult:
    """Look for what a few examples show in other images, without training, and say where it is not.

    ::

        out/
          predictions.json, masks/, overlays/, images/   as ``predict`` writes them: the folder is a dataset
          report.html             a contact sheet: unsure, found, not there
          certain.json            a dataset of the examples and of all that is certain: ``train samix out/certain.json``
          examples/               files of the examples, for it

    An interrupted call goes on when it is given again. Under ``accelerate launch`` each process takes its share.

    Args:
        examples: a folder, a file or a ``Dataset`` with one or more masks, of one or more categories. Masks of instances give instances.
            Masks without any object are examples of images where it is not.
        images: files, folders or one dataset; None: the images of ``examples`` that have no label.
        out: new, empty, or of the same call.
        alpha: share of wrong verdicts that is accepted, of those images in which it is, and of those in which it is not; in 0..0.5.
        sam: ``nano`` (bundled), a Hugging Face id, a folder, or an official ``.pt`` file. For others than ``nano`` verdicts come from
            your own examples alone, unless there is a ``scorer`` for it.
        scorer: what ``tools/train_find_scorer.py`` wrote for another SAM.
        split: of a dataset of images: only this split.
        batch: images per pass of the network.
        overlays: also write overlays.
        to: also write ``out/<to>`` in a format that annotation tools read.
        overwrite: replace what another call left in ``out``.
        format: what ``examples`` is read as, where several fit.
        image_reading: which page, channels and range of intensity of the image files count.
        device: left out, a GPU if there is one.
        progress: True shows bars; or what to call as ``progress(done, total)``, for each part of the work from the beginning.

    Raises:
        DataError: no mask to go by, no images to search, files that cannot be read or written.
        MaskwrightError: the folder holds something else.
        WeightsError: the SAM or the scorer cannot be loaded.

    >>> maskwright.find("one_mask", "photographs", "found").verdicts
    {'unsure': 12, 'found': 60, 'not there': 128}
    """
    require(
        {
            f"--alpha {alpha}: must lie above 0 and below 0.5": 0 < alpha < 0.5,
            f"--batch {batch}: must be at least 1": batch >= 1,
        }
    )
    require_data(examples)
    from maskwright.engine.prediction_export import require_target
    from maskwright.engine.prediction_folder import find_images, jobs_of, predict_folder, read_rows
    from maskwright.engine.processes import processes_for

    if to is not None:
        require_target(out, to)
    with progress_of(progress, "loading SAM"):
        from maskwright.methods.find.examples import read_examples, without_labels
        from maskwright.methods.find.finder import Finder
        from maskwright.methods.find.report import VERDICTS, verdict_of
        from maskwright.methods.find.scorer import BUNDLED, Scorer
        from maskwright.sam.sam import Sam

        processes, own_device = processes_for(device or "auto")
        dataset = as_dataset(examples, format, image_reading)
        if images is None:
            jobs = jobs_of(dataset.with_samples(without_labels(dataset)))
            if not jobs:
                remedy = "name the images to search: maskwright find EXAMPLES IMAGES --out DIR"
                raise DataError([f"{dataset.source or dataset.root}: all its images have labels; {remedy}"])
        else:
            jobs = find_images([images] if isinstance(images, str | Path) else images, out, split)
        judge = Scorer.load(BUNDLED if scorer is None else Path(scorer))
        model = Sam.load(sam).to(own_device).eval().requires_grad_(False)
    with progress_of(progress, "reading examples") as call:
        shown = read_examples(model, dataset, progress=call)
    with progress_of(progress, "learning what they say") as call:
        finder = Finder(model, shown, judge, dataset.source or dataset.root, progress=call)
    with progress_of(progress, "searching") as call:
        summary = predict_folder(
            finder,
            jobs,
            out,
            batch=batch,
            overlays=overlays,
            overwrite=overwrite,
            processes=processes,
            progress=call,
            alpha=alpha,
        )
    if not processes.is_main_process:
        return FindResult(summary, {}, finder.notes)
    if to is not None:
        summary = also_written(summary, out, to, progress)
    counts = Counter(verdict_of(row) for row in read_rows(out))
    return FindResult(summary, {name: counts[name] for name in VERDICTS}, finder.notes)
