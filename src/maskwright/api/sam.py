"""The foundation model: facts, scores without training, official checkpoints, embeddings ahead of time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maskwright.api.data import as_dataset, require_data
from maskwright.api.progress import Progress, progress_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName
from maskwright.errors import DataError
from maskwright.sam.sources import require_source

if TYPE_CHECKING:
    import torch

    from maskwright.data.dataset import Dataset
    from maskwright.engine.scoring import ScoreTable


def sam_info(
    sam: str | Path = "nano", *, size: int | None = None, device: str | torch.device | None = None
) -> dict[str, Any]:
    """Size and speed of a SAM on this machine, as plain numbers and texts.

    Args:
        sam: ``nano`` (bundled), a Hugging Face id such as ``facebook/sam2.1-hiera-tiny``, a folder, or an official
            ``.pt`` file.
        size: side of the canvas in pixels, other than the checkpoint's; a multiple of 32.
        device: where the speed is measured; left out, a GPU if there is one, else the CPU.

    Returns:
        ``name``; ``parameters`` and ``encoder_parameters``; ``size`` (pixels) and ``width`` (channels of an embedding);
        ``files``: path → bytes; ``device`` and ``threads``; ``encode_ms`` and ``decode_ms``: milliseconds for one
        image, and for one click on it.

    Raises:
        WeightsError: the weights cannot be loaded.
        MaskwrightError: the device is not here.

    >>> maskwright.sam_info("facebook/sam2.1-hiera-tiny")["encode_ms"]
    412.6
    """
    require_source(sam)
    from maskwright.engine.devices import find_device
    from maskwright.sam.info import info

    return info(sam, size=size, device=find_device(device or "auto"))


def sam_evaluate(
    sam: str | Path,
    dataset: str | Path | Dataset,
    split: str = "test",
    *,
    size: int | None = None,
    limit: int = 100,
    objects: int = 3,
    clicks: int = 5,
    noc: bool = False,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    seed: int = 0,
    batch: int = 8,
    device: str | torch.device | None = None,
    json: str | Path | None = None,
    report: str | Path | None = None,
    progress: Progress = False,
) -> dict[str, Any]:
    """What a SAM does with a box, with clicks and in context, without any training; beside answers without a model.

    Args:
        sam, size, device: see :func:`sam_info`.
        dataset: with masks in ``split``.
        split: which images are asked; references in context are from ``train``.
        limit, objects: images at most, and objects of an image at most, drawn by the seed.
        clicks: how many corrective clicks an oracle makes.
        noc: also count the clicks to an IoU of .80, .85 and .90, of up to 20; takes longer.
        format: what the dataset is read as, where several formats fit.
        image_reading: which page, channels and range of intensity of the image files count.
        seed: of images, objects and references.
        batch: images per pass of the encoder.
        json: also write the scores, those of every object included, to this file.
        report: also write a page with a curve and pictures to this HTML file.
        progress: True shows a bar; or what to call as ``progress(done, total)``.

    Returns:
        See :func:`maskwright.methods.zero_shot.evaluate_sam`; :func:`sam_score_table` makes a table of it.

    Raises:
        DataError: no such split, no mask or object in it, or files that cannot be read.
        WeightsError: the weights cannot be loaded.
        MaskwrightError: settings out of range, all listed.

    >>> maskwright.api.sam_evaluate("nano", "polyps", limit=20)["box"]["iou"]
    0.81
    """
    from maskwright.data.files import write_atomic

    require_source(sam)
    require_data(dataset)
    with progress_of(progress, "evaluating") as call:
        from maskwright.data.intensity import settled
        from maskwright.engine.devices import find_device
        from maskwright.engine.values import strict_json
        from maskwright.methods.zero_shot import evaluate_sam
        from maskwright.sam.sam import Sam

        model = Sam.load(sam, size=size).to(find_device(device or "auto"))
        scores = evaluate_sam(
            model,
            settled(as_dataset(dataset, format, image_reading)),
            split,
            limit=limit,
            objects=objects,
            clicks=clicks,
            noc=noc,
            seed=seed,
            batch=batch,
            report=report,
            progress=call,
        )
    if json is not None:
        write_atomic(Path(json), strict_json(scores, "scores", indent=1) + "\n")
    return scores


def sam_score_table(scores: dict[str, Any]) -> ScoreTable:
    """What :func:`sam_evaluate` gave, to be printed; the note says how to read it, and what was left out."""
    from maskwright.methods.zero_shot.report import score_table

    return score_table(scores)


def sam_convert(
    file: str | Path,
    out: str | Path,
    *,
    image_size: int | None = None,
    heads: int | None = None,
    windows: tuple[int, ...] | None = None,
    global_blocks: tuple[int, ...] | None = None,
) -> Path:
    """Turn an official SAM 2 or SAM 2.1 checkpoint into a folder that :meth:`maskwright.Sam.load` and all commands take.

    Args:
        file: the ``.pt`` file; code in it is never run.
        out: new folder.
        image_size: side of the canvas that it was made for in pixels, where it is not a released model.
        heads: attention heads of the first stage, likewise.
        windows: attention window of each stage in cells, likewise.
        global_blocks: blocks with global attention, counted from 0, likewise.

    Returns:
        The folder.

    Raises:
        WeightsError: no such file, no checkpoint of SAM 2, or tensors that are missing or left over; all are named.

    >>> maskwright.api.sam_convert("sam2.1_hiera_tiny.pt", "models/sam2.1-tiny")
    PosixPath('models/sam2.1-tiny')
    """
    from maskwright.sam.convert import convert

    return convert(file, out, image_size=image_size, heads=heads, windows=windows, global_blocks=global_blocks)


def precompute(
    sam: str | Path,
    dataset: str | Path | Dataset,
    store: str | Path,
    *,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    size: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shards: bool = False,
    batch: int = 8,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> tuple[int, int]:
    """Encode all images of a dataset once and keep the embeddings; what is there is not made again.

    Under ``accelerate launch`` each process takes its share.

    Args:
        sam, size, device: see :func:`sam_info`.
        dataset: a folder, a JSON file, or a ``Dataset``.
        format: what the dataset is read as, where several formats fit.
        image_reading: which page, channels and range of intensity of the image files count.
        store: folder for the embeddings, read by :class:`maskwright.sam.store.EmbeddingStore`.
        dtype: float16 takes half the space.
        shards: keep the embeddings in a few large files, one under way for each process, instead of a file for each image; a store that
            does so already goes on with it.
        batch: images per pass of the encoder.
        overwrite: empty a store that was made with other weights.
        progress: True shows a bar; or what to call as ``progress(done, total)`` for this process' share.

    Returns:
        How many images were encoded, and how many were there already, over all processes.

    Raises:
        DataError: images that cannot be read, all of them at once, after all others are done.
        WeightsError: the weights cannot be loaded; the store cannot be written, or holds embeddings of other weights.
        RunError: another process is writing there.

    >>> maskwright.precompute("nano", "polyps", "embeddings/polyps")
    (1000, 0)
    """
    require_source(sam)
    require_data(dataset)
    with progress_of(progress, "encoding") as call, ExitStack() as locked:
        from maskwright.data.intensity import settled
        from maskwright.engine.files import disk
        from maskwright.engine.locks import FolderLock
        from maskwright.engine.processes import processes_for
        from maskwright.sam.precompute import precompute as encode_all
        from maskwright.sam.precompute import signature
        from maskwright.sam.sam import Sam
        from maskwright.sam.store import EmbeddingStore

        processes, own_device = processes_for(device or "auto")
        images = settled(as_dataset(dataset, format, image_reading))
        model = Sam.load(sam, size=size).to(own_device)
        if processes.is_main_process and _may_be_store(Path(store)):
            with disk(Path(store), "embeddings cannot be written there"):
                locked.enter_context(FolderLock(Path(store), "give another folder"))
        # The main process first, so that a store to be emptied is empty before anyone else opens it.
        if not processes.is_main_process:
            processes.wait_for_everyone()
        embeddings = EmbeddingStore(
            store, signature(model, dtype), memory_bytes=0, overwrite=overwrite, shards=shards or None
        )
        if processes.is_main_process:
            processes.wait_for_everyone()
        rank, world = processes.process_index, processes.num_processes
        counts, problems = (0, 0), []
        try:
            counts = encode_all(model, images, embeddings, batch=batch, rank=rank, world=world, progress=call)
        except DataError as error:
            problems = error.problems
        embeddings.close()
    if world > 1:
        from accelerate.utils import gather_object

        parts = gather_object([(*counts, problems)])
        counts = sum(part[0] for part in parts), sum(part[1] for part in parts)
        problems = [problem for part in parts for problem in part[2]]
    if problems:
        raise DataError(problems, images.source or str(images.root))
    return counts


def _may_be_store(folder: Path) -> bool:
    """Whether a folder is a store, or can become one; what it is not is refused by the store, and left without a lock."""
    if not folder.is_dir():
        return not folder.exists()
    return (folder / "signature.json").is_file() or all(path.name.startswith(".") for path in folder.iterdir())
