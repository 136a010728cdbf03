"""The mask that would be right: a proposal on the coarse grid carried out at the image's own resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE, Mask, Sample
from maskwright.data.masks import label_values, semantic_of
from maskwright.data.shapes import tight_boxes
from maskwright.methods.curate.audit import Suspect
from maskwright.methods.curate.evidence import Proposal
from maskwright.methods.curate.planted_errors import ErrorKind
from maskwright.methods.curate.regions import iou, moved, operations
from maskwright.sam.closer_look import look_closer
from maskwright.sam.sam import Sam

TRUSTED = 0.5
"""SAM's outline of what was missed is taken where its IoU with what the model saw is at least this; else the model's own."""

SLIVER = 0.2
"""Parts that a repair would leave of an object belong to what it marks, where they have less than this share of its pixels."""


@dataclass(frozen=True)
class Repair:
    """A repaired mask.

    Attributes:
        values: (H, W) as the mask's file has them: category ids, or instance ids.
        mask: the mask's record; of instances, with the categories of new ones.
        changed: pixels that are different now, or belong to an instance of another category.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16]
    mask: Mask
    changed: int


def repair(sam: Sam, dataset: Dataset, sample: Sample, suspect: Suspect) -> Repair | None:
    """The repaired mask of a suspect, or None where there is nothing to propose.

    Raises:
        DataError: its files cannot be read.
    """
    proposal, mask = suspect.proposal, sample.labels.mask
    if proposal is None or mask is None:
        return None
    values, categories = label_values(dataset, sample)
    size = values.shape[1], values.shape[0]
    if suspect.kind == "swapped":
        return _recategorised(values, categories, mask, proposal, size)
    add, remove, near = _edits(sam, dataset, sample, suspect.kind, proposal, categories, size)
    add &= (categories != IGNORE) & (categories != proposal.category)
    remove &= categories == proposal.category
    edited = values.copy()
    edited[remove] = 0
    if mask.kind == "semantic":
        edited[add] = proposal.category
    elif add.any():
        edited, mask = _with_instance(edited, mask, add, proposal.category, _instance_of(values, near))
    changed = int((edited != values).sum())
    return Repair(edited, mask, changed) if changed else None


def _edits(
    sam: Sam,
    dataset: Dataset,
    sample: Sample,
    kind: ErrorKind,
    proposal: Proposal,
    categories: NDArray[np.uint8],
    size: tuple[int, int],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """What becomes the category, what becomes background, and the object that both belong to; (H, W) bool each."""
    nothing = np.zeros(categories.shape, bool)
    own_category = categories == proposal.category
    if kind == "extra":
        return nothing, _completed(_enlarged(proposal.remove, size), own_category), nothing
    if kind == "missed":
        seen = _enlarged(proposal.add, size)
        drawn = _outlined(sam, dataset, sample, seen)
        return (drawn if iou(drawn, seen) >= TRUSTED else seen) & (categories == 0), nothing, nothing
    assert proposal.region is not None
    own = _completed(_enlarged(proposal.region, size), own_category)
    if kind == "shifted":
        assert proposal.shift is not None
        grid = proposal.region.shape
        down = round(proposal.shift[0] * size[1] / grid[0])
        right = round(proposal.shift[1] * size[0] / grid[1])
        now = moved(own, down, right)
    else:
        now = _outlined(sam, dataset, sample, own)
    return now & ~own, own & ~now, own


def _outlined(sam: Sam, dataset: Dataset, sample: Sample, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """SAM's outline of what lies in a region's box, asked with a closer look."""
    if not region.any():
        return region
    image = torch.from_numpy(dataset.pixels(sample)).permute(2, 0, 1)[None].to(sam.device).float() / 255
    boxes = tight_boxes(torch.from_numpy(region)[None]).to(sam.device)
    looks = look_closer(sam, image, torch.zeros(1, dtype=torch.long, device=sam.device), boxes)
    return (looks.on_image((region.shape[1], region.shape[0]))[0] > 0).cpu().numpy()


def _recategorised(
    values: NDArray, categories: NDArray[np.uint8], mask: Mask, proposal: Proposal, size: tuple[int, int]
) -> Repair | None:
    """Another category for the object that a proposal marks."""
    marked = _enlarged(proposal.add, size) & (categories != 0) & (categories != IGNORE)
    if not marked.any():
        return None
    before = int(np.bincount(categories[marked]).argmax())
    region = _completed(marked, categories == before)
    if before == proposal.category or not region.any():
        return None
    if mask.kind == "semantic":
        edited = values.copy()
        edited[region] = proposal.category
        return Repair(edited, mask, int(region.sum()))
    # An instance belongs to the region where most of it does.
    whole, within = np.bincount(values.ravel()), np.bincount(values[region], minlength=int(values.max()) + 1)
    ids = [i for i in np.flatnonzero(within).tolist() if i and 2 * within[i] > whole[i]]
    mask = replace(mask, categories={**mask.categories, **dict.fromkeys(ids, proposal.category)})
    changed = int((semantic_of(values, mask) != categories).sum())
    return Repair(values, mask, changed) if changed else None


def _completed(region: NDArray[np.bool_], category: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What a region marks of a category, with what little would be left of its objects.

    A region of the grid ends up to a cell beside the pixels that it stands for: without this, slivers of an object would stay along its
    border.
    """
    marked = region & category
    rest, count = operations.label(category & ~region, structure=np.ones((3, 3)))
    sizes = np.bincount(rest.ravel(), minlength=count + 1)
    touching = np.unique(rest[operations.binary_dilation(marked, np.ones((3, 3)))])
    slivers = [part for part in touching.tolist() if part and sizes[part] < SLIVER * marked.sum()]
    return marked | np.isin(rest, slivers)


def _with_instance(
    values: NDArray, mask: Mask, add: NDArray[np.bool_], category: int, instance: int
) -> tuple[NDArray, Mask]:
    """Give pixels to an instance; 0: to a new one."""
    if not instance:
        instance = int(values.max()) + 1
        if instance > np.iinfo(values.dtype).max:
            values = values.astype(np.uint16)
        mask = replace(mask, categories={**mask.categories, instance: category})
    values[add & (values == 0)] = instance
    return values, mask


def _instance_of(values: NDArray, region: NDArray[np.bool_]) -> int:
    """The instance that most of a region belongs to; 0 where there is none."""
    counts = np.bincount(values[region].ravel()) if region.any() else np.zeros(1, int)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else 0


def _enlarged(region: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A region of the grid at (width, height), with smooth borders."""
    soft = Image.fromarray(region.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(soft) > 127
