"""What only a whole dataset shows: pictures in two splits, masks that contradict each other, labels that say nothing.

Each finding is a problem, or a warning where the data may well be meant so. A warning has a count and an example.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from maskwright.data.dataset import Dataset
from maskwright.data.findings import Finding, name_of, source_of
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.labels import IGNORE, Kind, Sample
from maskwright.data.stats import TINY, Measure
from maskwright.problems import Problem, fix_command

MUCH_IGNORED = 0.2
"""Share of an image's pixels from which 255 is worth a warning."""


def suspicions(dataset: Dataset, findings: Sequence[Finding], *, training: bool, decoded: bool) -> Iterator[Problem]:
    """Problems and warnings of a whole dataset.

    Args:
        dataset: what was checked.
        findings: of its samples, in their order.
        training: also require a split ``train`` with labels.
        decoded: the pixels were looked at.
    """
    whole = _Whole(dataset, findings)
    yield from whole.duplicate_ids()
    yield from whole.pictures_in_two_splits()
    if decoded:
        yield from whole.contradicting_masks()
        yield from whole.much_ignored()
        yield from whole.tiny()
        yield from whole.single_ids()
    if training:
        yield from whole.training_split()
        if decoded:
            yield from whole.nothing_marked()


class _Whole:
    def __init__(self, dataset: Dataset, findings: Sequence[Finding]) -> None:
        self.dataset, self.source, self.name = dataset, source_of(dataset), name_of(dataset)
        self.pairs: list[tuple[Sample, Finding]] = list(zip(dataset.samples, findings, strict=True))

    def problem(self, message: str, kind: str, remedy: str = "", *, fix: str | None = None) -> Problem:
        return Problem(message, kind=kind, file=self.source, remedy=remedy, fix=fix, data=self.name)

    def warning(self, message: str, kind: str, remedy: str = "") -> Problem:
        return Problem(message, kind=kind, severity="warning", file=self.source, remedy=remedy)

    def masks(self, kind: str) -> list[tuple[Sample, Measure]]:
        """Samples with a mask of this kind that was read."""
        return [(s, f.measure) for s, f in self.pairs if f.measure.mask and f.measure.mask.kind == kind]

    def duplicate_ids(self) -> Iterator[Problem]:
        for name, count in Counter(sample.id for sample in self.dataset.samples).items():
            if count > 1:
                what = f"this id is there {count} times"
                yield Problem(
                    what, kind="duplicate-id", file=self.source, place=f"sample {name!r}", remedy="rename the others"
                )

    def pictures_in_two_splits(self) -> Iterator[Problem]:
        """By their pixels, so that a copy in another format is found too; by path where they were not decoded."""
        same: dict[bytes | str, list[Sample]] = defaultdict(list)
        for sample, finding in self.pairs:
            same[finding.pixels or os.path.realpath(self.dataset.image_path(sample))].append(sample)
        for samples in same.values():
            if len({sample.split for sample in samples}) > 1:
                where = ", ".join(f"{s.image} (sample {s.id!r}, split {s.split!r})" for s in samples)
                yield self.problem(f"one image in several splits: {where}", "shared-image", "keep it in one of them")

    def contradicting_masks(self) -> Iterator[Problem]:
        """Where 255 is the object in some masks and "ignore" by the rules: the others say 1, or none says anything."""
        written = [(sample, f) for sample, f in self.pairs if f.written]
        if len(self.dataset.categories) > 2 or any(f.measure.ignored and f.measure.marked for _, f in written):
            yield from self.only_ignored(written)
            return
        splits: dict[str, Counter[str]] = defaultdict(Counter)
        for sample, finding in written:
            splits[sample.split][finding.written] += 1
        names = Counter(f.written for _, f in written)
        white = f"0/{IGNORE}"
        if names["0/1"] and names[white]:
            counts = "; ".join(
                f"{split}: {', '.join(f'{n} of {name}' for name, n in sorted(by.items()) if name != 'empty')}"
                for split, by in splits.items()
                if by.keys() - {"empty"}
            )
            example = next(sample for sample, f in written if f.written == white)
            what = f"masks write the object in two ways ({counts}), and {IGNORE} would count as ignored, as in {example.image}"
            yield self.problem(what, "mixed-masks", fix="")
        elif names[white]:
            yield from self.only_ignored(written)

    def only_ignored(self, written: Sequence[tuple[Sample, Finding]]) -> Iterator[Problem]:
        """Splits whose masks mark no category, yet hold 255."""
        for split in dict.fromkeys(sample.split for sample, _ in written):
            members = [(sample, f.measure) for sample, f in written if sample.split == split]
            ignoring = [sample for sample, measure in members if measure.ignored]
            if ignoring and not any(measure.marked for _, measure in members):
                adjective = "training" if split == "train" else split
                mask = ignoring[0].labels.mask
                example = mask.path if mask else ignoring[0].image
                what = f"no {adjective} mask marks any category, yet some hold {IGNORE} (ignore), for example {example}"
                remedy = f"if {IGNORE} means foreground here, write the category id instead"
                one = len(self.dataset.categories) == 2
                yield self.problem(what, "only-ignored", remedy, fix="" if one else None)

    def much_ignored(self) -> Iterator[Problem]:
        much = [(s, m.ignored / m.area) for s, m in self.masks("semantic") if m.ignored > MUCH_IGNORED * m.area]
        if much:
            sample, share = max(much, key=lambda pair: pair[1])
            what = f"masks that ignore more than {MUCH_IGNORED:.0%} of their image: {len(much)}, most of all {sample.id!r} ({share:.0%})"
            yield self.warning(what, "much-ignored", f"pixels of {IGNORE} teach nothing and are not scored")

    def tiny(self) -> Iterator[Problem]:
        if found := [(s, m.tiny) for s, m in self.masks("instance") if m.tiny]:
            what = f"objects of fewer than {TINY} pixels: {sum(n for _, n in found)}, such as in {found[0][0].image}"
            yield self.warning(what, "tiny-object", "they are too small to be learned")
        if found := [(s, n) for s, m in self.masks("instance") if (n := _hidden(m))]:
            what = f"objects without a pixel in their mask: {sum(n for _, n in found)}, such as in {found[0][0].image}"
            yield self.warning(what, "lost-object", "they are smaller than a pixel, or wholly covered by others")
        if near_empty := [s for s, m in self.masks("semantic") if m.nearly_empty]:
            what = f"masks that mark fewer than {TINY} pixels: {len(near_empty)}, such as that of {near_empty[0].image}"
            yield self.warning(what, "near-empty-mask", "look whether they were drawn to the end")

    def single_ids(self) -> Iterator[Problem]:
        """Masks that were taken for instance masks, all with the same one id: probably they say where objects are."""
        read = self.masks("instance") if self.dataset.format.startswith("folders") else []
        counts = [len(measure.ids) for _, measure in read]
        ids = frozenset[int]().union(*(measure.ids for _, measure in read))
        if len(counts) > 1 and max(counts) == len(ids) == 1:
            example = read[counts.index(1)][0].image
            what = f"{len(read)} masks were read as object ids, and all their objects have the id {min(ids)}, as in {example}"
            remedy = f"if they only say where objects are: {fix_command(self.name, '--semantic')}"
            yield Problem(what, kind="single-id", severity="warning", file=self.source, remedy=remedy, fix="--semantic")

    def training_split(self) -> Iterator[Problem]:
        train = self.dataset.split("train")
        if not train.samples:
            splits = ", ".join(sorted({sample.split for sample in self.dataset.samples})) or "none"
            yield self.problem(f"split 'train' is empty (splits: {splits})", "no-training", "put images into it")
        elif all(sample.labels.kind == Kind.NONE for sample in train):
            what = f"none of the {len(train)} images of split 'train' has a label"
            yield self.problem(what, "no-training", "label at least one")

    def nothing_marked(self) -> Iterator[Problem]:
        """Training masks that are all empty, where no other label says what to look for."""
        train = [f for s, f in self.pairs if s.split == "train"]
        masks = [f.measure for f in train if f.measure.mask]
        other = any(measure.counts[key][1:].any() for measure in (f.measure for f in train) for key in measure.counts)
        unread = any(s.labels.mask and not f.measure.mask for s, f in self.pairs)
        named = len(self.dataset.categories) > 1
        if named and masks and not unread and not other and all(measure.empty for measure in masks):
            what = f"all {len(masks)} training masks are empty: no pixel of any category"
            yield self.problem(what, "all-empty", "look whether they were exported with their labels")


def left_out(dataset: Dataset) -> list[str]:
    """Image files beside those of a dataset that it does not name, as paths from its folder, sorted."""
    used = {os.path.realpath(dataset.image_path(sample)) for sample in dataset}
    used |= {os.path.realpath(path) for sample in dataset if (path := dataset.mask_path(sample))}
    folders = dict.fromkeys(dataset.image_path(sample).parent for sample in dataset)
    others = []
    for folder in folders:
        if not folder.is_dir():
            continue
        for entry in os.scandir(folder):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES and not entry.name.startswith(".") and os.path.realpath(entry.path) not in used:
                others.append(os.path.relpath(entry.path, dataset.root))
    return sorted(others)


def _hidden(measure: Measure) -> int:
    """Objects that a mask's record names and its pixels do not show."""
    return len(measure.mask.categories.keys() - measure.ids) if measure.mask else 0
