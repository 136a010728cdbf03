"""Segmentation in context for the benchmarks of selectors: a pool of references, and queries with known truth.

Every image is encoded once and every reference remembered once; after that a selector's answer costs a recall and a decode.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from maskwright.data.augment import training_geometry
from maskwright.data.batch import Batch
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.loader import Loader
from maskwright.engine.budget import progress
from maskwright.engine.checkpoints import read_checkpoint
from maskwright.engine.metrics import soft_dice
from maskwright.engine.weights import load_state
from maskwright.methods.in_context.judging import Judge, answer_groups
from maskwright.methods.in_context.pool import ReferencePool
from maskwright.methods.in_context.rows import Rows, resize, rows_of, truth_of
from maskwright.nets.selector import select
from maskwright.nets.spnet import Query, pooled, pooled_memory
from maskwright.sam.adapter import add_adapters
from maskwright.sam.sam import Embedding, Sam
from measure import load_sam

Guess = Literal["answer", "whole"]


def load_adapted(source: str, size: int | None) -> Sam:
    """What ``load_sam`` takes, or a run directory of ``samix``: the SAM of its newest checkpoint, with its adapters."""
    run = Path(source)
    if not (run / "last").is_dir():
        return load_sam(source, size)
    settings = json.loads((run / "config.json").read_text())["config"]
    checkpoint = read_checkpoint(run)
    if checkpoint is None or "sam" not in checkpoint.tensors:
        raise SystemExit(f"{run}: its checkpoint holds no adapted SAM; name the SAM it started from")
    sam = Sam.load(settings["sam"], size=size or settings["size"])
    add_adapters(sam)
    load_state(sam, checkpoint.tensors["sam"], run)
    return sam


@dataclass(frozen=True)
class Images:
    """B encoded images with their truth.

    Attributes:
        embedding: of B.
        target: (B, S, S) uint8 category ids, 255 = unknown.
        rows: the categories that are there to be asked for.
        sample: (B,) number of the image, equal for views of one image.
        ids: B names.
    """

    embedding: Embedding
    target: Tensor
    rows: Rows
    sample: Tensor
    ids: list[str]

    def maps(self, at: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Truth and the pixels that count, both (R, side, side) in 0..1, of the rows ``at``."""
        return truth_of(self.target, self.rows[at], side)


@torch.no_grad()
def encode(
    sam: Sam, dataset: Dataset, title: str, *, views: int = 1, upright: bool = True, seed: int = 0, batch: int = 8
) -> Images:
    """Encode all images, each in at least ``views`` ways: as it is, then moved, scaled and mirrored.

    Where images have no upright, they are also turned by quarters and mirrored top to bottom.
    """
    batches: list[Batch] = []
    embeddings: list[Embedding] = []
    plain = Loader(dataset, sam.size, batch, shuffle=False)
    moved = Loader(dataset, sam.size, batch, augment=training_geometry(upright), seed=seed)
    steps = len(moved) * (views - 1)
    with progress(len(plain) + steps, title) as advance:
        for part in (*plain.ordered(), *(moved.batch(step) for step in range(steps))):
            embeddings.append(sam.encode(part.images.to(sam.device)))
            batches.append(part)
            advance()
    sample = torch.cat([b.indices for b in batches])
    return Images(
        Embedding.cat(embeddings),
        torch.cat([b.target for b in batches]).to(torch.uint8),
        rows_of(torch.cat([b.present for b in batches]), torch.cat([b.kinds for b in batches]), sample),
        sample,
        [dataset[i].id for i in sample.tolist()],
    )


@torch.no_grad()
def fill(sam: Sam, images: Images, members: set[int], at_once: int = 16) -> ReferencePool:
    """A pool of the plain views of the images whose numbers are in ``members``, one entry per category."""
    pool = ReferencePool()
    first = images.sample.tolist().index
    places = torch.tensor(sorted(first(number) for number in members))
    wanted = torch.isin(images.rows.image, places).nonzero()[:, 0]
    for at in wanted.split(at_once):
        rows = images.rows[at]
        truth, known = images.maps(at, sam.size // 4)
        truth = truth * (known > 0)
        own = images.embedding[rows.image]
        memory = sam.remember(own, truth[:, None])[:, 0]
        whole, foreground = pooled(own.low, truth)
        kinds = torch.full((len(at),), int(Kind.MASK))
        vector = pooled_memory(memory.features, truth)
        pool.update(images.sample[rows.image], rows.category, kinds, memory, whole, foreground, vector)
    return pool


class Queries:
    """Rows of encoded images that are asked for in context. They count as unlabelled, and never refer to their own image.

    Args:
        own: whether the images are those that the pool was made of.
        guess: where a query's object vector comes from, as its truth must not be looked at: ``answer``, a first answer with the
            most similar references; ``whole``, the whole image.
        references: T, of that first answer.
    """

    def __init__(
        self, sam: Sam, pool: ReferencePool, images: Images, *, own: bool, guess: Guess, references: int
    ) -> None:
        self.sam, self.pool, self.images = sam, pool, images
        sample = images.sample if own else torch.full_like(images.sample, -1)
        kinds = torch.full((len(images.rows),), int(Kind.NONE))
        allowed = pool.allowed(sample[images.rows.image], images.rows.category, kinds)
        self.at = allowed.any(1).nonzero()[:, 0]
        self.rows, self.allowed = images.rows[self.at], allowed[self.at]
        self.query = self._query(guess, references)

    def __len__(self) -> int:
        return len(self.at)

    @torch.no_grad()
    def _query(self, guess: Guess, references: int) -> Query:
        whole = self.images.embedding.low.mean((2, 3))[self.rows.image]
        foreground = whole
        if guess == "answer" and len(self):
            own = self.pool.tensors
            places = select(
                "similar", whole, whole, own["whole"], own["foreground"], self.allowed, references, torch.Generator()
            )
            parts = torch.arange(len(self)).split(64)
            foreground = torch.cat(
                [
                    pooled(
                        self.images.embedding.low[self.rows.image[at]], (self.answer(at, places[at])[0] > 0).float()
                    )[1]
                    for at in parts
                ]
            )
        return Query(whole, foreground, torch.full((len(self),), int(Kind.NONE)))

    @torch.no_grad()
    def answer(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """As ``methods.in_context.judging.PredictMasks``: (R,) rows, (R, T) places in the pool → (R, S/4, S/4) logits and (R,)
        predicted IoU."""
        embedding = self.images.embedding[self.rows.image[rows]]
        masks = self.sam.decode(self.sam.recall(embedding, self.pool.memory(places)))
        return masks.best[:, 0], masks.best_iou[:, 0]

    def judge(self, at: Tensor | None = None) -> Judge:
        """The truth of the rows ``at``, on SAM's own grid."""
        at = torch.arange(len(self)) if at is None else at
        truth, counted = self.images.maps(self.at[at], self.sam.size // 4)
        return Judge(torch.ones(len(at), dtype=torch.bool), truth, counted)

    def some(self, at: Tensor) -> Query:
        """The vectors of the rows ``at``."""
        return Query(self.query.whole[at], self.query.foreground[at], self.query.kind[at])

    def quick_dice(self, places: Tensor, at: Tensor) -> Tensor:
        """(R, T) places for the rows ``at`` → (R,) true Dice on SAM's own grid."""
        return answer_groups(lambda rows, p: self.answer(at[rows], p), places[:, None], self.judge(at))[0][0, :, 0]

    def scores(self, places: Tensor, rows: Tensor | None = None) -> dict[str, float]:
        """(R, T) places for some rows (None: all) → Dice of every image on the full canvas, the mean over its categories."""
        size = self.sam.size
        rows = torch.arange(len(self)) if rows is None else rows
        found: dict[str, list[float]] = {}
        for at, shown in zip(rows.split(32), places.split(32)):
            logits = resize(self.answer(at, shown)[0][:, None], size)[:, 0]
            values = soft_dice(logits > 0, *self.images.maps(self.at[at], size))
            for image, value in zip(self.rows.image[at].tolist(), values.tolist()):
                found.setdefault(self.images.ids[image], []).append(value)
        return {name: sum(values) / len(values) for name, values in found.items()}
