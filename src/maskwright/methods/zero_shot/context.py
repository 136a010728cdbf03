"""A SAM's answers in context: what of a category it finds in an image after it was shown other images with their masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import on_canvas
from maskwright.data.labels import IGNORE, Sample
from maskwright.methods.zero_shot.baselines import ThresholdScan, iou, prototypes, similarity
from maskwright.methods.zero_shot.objects import (
    ImageTargets,
    View,
    draw_pools,
    draw_references,
    on_device,
    read_view,
    reference_split,
)
from maskwright.sam.precompute import encode_canvases
from maskwright.sam.sam import Embedding, Memory, Sam

SHOTS = (1, 5)
"""Numbers of references; those of the smaller are among those of the larger."""

POOL = 20
"""Images of a category, at most, that its references are drawn from."""


class ContextQueries:
    """Asks a SAM for categories in context: remembers the references, puts the queries, and keeps one row for each of them.

    Args:
        targets: the images; their categories are the queries.
        split: of these images.

    Attributes:
        samples: all references, in the order in which ``remember`` wants them.
        per_query: rows of plain numbers and texts.
    """

    def __init__(self, sam: Sam, dataset: Dataset, split: str, targets: Sequence[ImageTargets], seed: int) -> None:
        self.sam, self.dataset, self.seed = sam, dataset, seed
        self.split = reference_split(dataset, split)
        self.pools = draw_pools(
            dataset, targets, self.split, size=sam.size, smallest=max(SHOTS), largest=POOL, seed=seed
        )
        self.samples = list({sample.id: sample for pool in self.pools.values() for sample in pool}.values())
        self.per_query: list[dict[str, Any]] = []
        self.unanswered = 0
        self._categories: dict[str, list[int]] = {sample.id: [] for sample in self.samples}
        for category, pool in self.pools.items():
            for sample in pool:
                self._categories[sample.id].append(category)
        self._queried = {item.sample.id for item in targets}
        self._entries: dict[tuple[str, int], int] = {}
        self._memories: list[Memory] = []
        self._prototypes: list[Tensor] = []
        self._encoded: dict[str, Embedding] = {}
        self._scans = {shots: ThresholdScan() for shots in SHOTS}

    def remember(self, samples: Sequence[Sample]) -> None:
        """Encode some references and remember them, once for each category that they stand for."""
        views = [read_view(self.dataset, sample, self.sam.size) for sample in samples]
        embedding = self.encode(samples, views)
        entries = [(row, category) for row, s in enumerate(samples) for category in self._categories[s.id]]
        rows = torch.tensor([row for row, _ in entries], device=self.sam.device)
        masks = on_device([views[row].categories == category for row, category in entries], self.sam.device)
        memory = self.sam.remember(embedding[rows], masks[:, None])
        means = prototypes(embedding.low[rows], masks)
        for n, (row, category) in enumerate(entries):
            self._entries[samples[row].id, category] = len(self._memories)
            self._memories.append(memory[n : n + 1, 0])
            self._prototypes.append(means[n])
        for row, sample in enumerate(samples):
            if sample.id in self._queried:
                self._encoded[sample.id] = embedding[row : row + 1]

    def encode(self, samples: Sequence[Sample], views: Sequence[View]) -> Embedding:
        """Embeddings of images; one that was encoded as a reference is not encoded again."""
        fresh = [row for row, sample in enumerate(samples) if sample.id not in self._encoded]
        again = [row for row, sample in enumerate(samples) if sample.id in self._encoded]
        parts = [self._encoded[samples[row].id] for row in again]
        if fresh:
            parts.append(encode_canvases(self.sam, [views[row].image for row in fresh]))
        return Embedding.cat(parts)[torch.tensor(again + fresh, device=self.sam.device).argsort()]

    def ask(self, items: Sequence[ImageTargets], views: Sequence[View], embedding: Embedding) -> None:
        """Look for the categories of some images, with every number of references."""
        queries = [
            (row, category, draw_references(item, category, self.pools[category], max(SHOTS), self.seed))
            for row, item in enumerate(items)
            for category in item.categories
        ]
        count = len(queries)
        # A small canvas may have no pixel of a category.
        queries = [query for query in queries if query[2] and (views[query[0]].categories == query[1]).any()]
        self.unanswered += count - len(queries)
        if not queries:
            return
        truths = on_device([views[row].categories == category for row, category, _ in queries], self.sam.device)
        valid = on_device([views[row].categories != IGNORE for row, _, _ in queries], self.sam.device)
        embedding = embedding[torch.tensor([row for row, _, _ in queries], device=self.sam.device)]
        memory, means = self._recollect([[(sample.id, c) for sample in references] for _, c, references in queries])
        ious: dict[str, list[float]] = {}
        for shots in SHOTS:
            answers = self.sam.decode(self.sam.recall(embedding, memory[:, :shots])).best
            ious[str(shots)] = iou(on_canvas(answers[:, 0], self.sam.size), truths, valid).tolist()
            maps = similarity(embedding.low, means[:, :shots], self.sam.size)
            self._scans[shots].update(maps, truths, valid)
        everywhere = iou(valid, truths, valid).tolist()
        self.per_query += [
            {
                "image": items[row].sample.id,
                "category": self.dataset.categories[category],
                "references": [sample.id for sample in references],
                "iou": {shots: values[n] for shots, values in ious.items()},
                "all_foreground": everywhere[n],
            }
            for n, (row, category, references) in enumerate(queries)
        ]

    def _recollect(self, wanted: list[list[tuple[str, int]]]) -> tuple[Memory, Tensor]:
        """Memory ``(Q, R)`` and prototypes ``(Q, R, C)`` of references ``(image, category)``."""
        places = torch.tensor([[self._entries[key] for key in row] for row in wanted], device=self.sam.device)
        used, order = places.unique(return_inverse=True)
        memory = Memory.cat([self._memories[place] for place in used.tolist()])
        return memory[order], torch.stack([self._prototypes[place] for place in used.tolist()])[order]

    def summary(self) -> dict[str, Any] | None:
        """Means over the queries, or None where there was none."""
        if not self.per_query:
            return None
        scans = {str(shots): scan.best() for shots, scan in self._scans.items()}
        return {
            "queries": len(self.per_query),
            "split": self.split,
            "iou": {key: float(np.mean([row["iou"][key] for row in self.per_query])) for key in scans},
            "trivial": {
                "all_foreground": float(np.mean([row["all_foreground"] for row in self.per_query])),
                "threshold": {key: score for key, (score, _) in scans.items()},
            },
            "thresholds": {key: threshold for key, (_, threshold) in scans.items()},
        }

    def notes(self) -> list[str]:
        """What was left out or done differently."""
        names = self.dataset.categories
        short = {names[c]: len(pool) for c, pool in self.pools.items() if len(pool) < max(SHOTS)}
        notes = []
        if self.split != "train":
            notes.append(f"references in context are other images of split {self.split!r}")
        if short:
            listed = ", ".join(f"{name} ({count})" for name, count in short.items())
            notes.append(f"fewer than {max(SHOTS)} references, shown again to make up the number: {listed}")
        if self.unanswered:
            notes.append(
                f"{self.unanswered} queries in context left out: no other image shows the category with a mask"
            )
        return notes
