"""What SAM answers about an image: masks for clicks and boxes, the labels of another image carried over. Each image is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.geometry import squash
from maskwright.methods.clicks.agent import mask_logits
from maskwright.sam.closer_look import look_closer
from maskwright.sam.sam import Embedding, Sam
from maskwright.serve.canvas_masks import objects_of, parts_of, prompts_of, runs_of, to_grid, to_image
from maskwright.serve.tiles import Pictures
from maskwright.serve.wire import Runs, Size

EMBEDDINGS = 64
"""Images whose embeddings stay in memory: 1.3 MB each with ``nano`` at 256 pixels."""

AROUND = 8
"""Pixels around a closer look's window that are cut out with it."""


class SamAnswers:
    """A SAM and the images that it has encoded, for one thread.

    Args:
        sam: frozen.
        pictures: gives the images' pixels.

    Attributes:
        encoded: how often an image was encoded.
    """

    def __init__(self, sam: Sam, pictures: Pictures) -> None:
        self.sam, self.pictures = sam, pictures
        self.encoded = 0
        self._embeddings: OrderedDict[Path, Embedding] = OrderedDict()

    def is_encoded(self, path: Path) -> bool:
        return path in self._embeddings

    @torch.no_grad()
    def embedding(self, path: Path) -> Embedding:
        """Raises DataError where the image cannot be read."""
        if path not in self._embeddings:
            pixels = squash(self.pictures.pixels(path), self.sam.size)
            self._embeddings[path] = self.sam.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
            self.encoded += 1
            while len(self._embeddings) > EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(path)
        return self._embeddings[path]

    @torch.no_grad()
    def masks(
        self,
        path: Path,
        size: Size,
        points: Sequence[Sequence[float]],
        box: Sequence[float] | None,
        mask: Runs | None,
        several: bool,
    ) -> list[dict[str, Any]]:
        """Candidates ``{"mask", "score"}`` for prompts in pixels of an image of (width, height), the likeliest first.

        One click may mean a part or the whole: SAM is asked for three masks then, and without ``several`` the likeliest is taken.
        """
        sam, embedding = self.sam, self.embedding(path)
        prompts = prompts_of(points, box, torch.tensor([sam.size / size[0], sam.size / size[1]]))
        previous = None
        if mask is not None:
            previous = mask_logits(to_grid(torch.from_numpy(mask.whole(size)), sam.size // 4))[None, None]
        is_one_click = len(points) == 1 and box is None and mask is None
        answers = sam.decode(embedding, prompts, previous, several or is_one_click)
        order = answers.iou[0, 0].argsort(descending=True).tolist()
        found = []
        for place in order if several else order[:1]:
            runs = runs_of(answers.logits[0, 0, place], size)
            if runs is not None:
                found.append({"mask": runs.as_json(), "score": round(float(answers.iou[0, 0, place]), 4)})
        return found

    @torch.no_grad()
    def closer(
        self, path: Path, size: Size, points: Sequence[Sequence[float]], box: Sequence[float], mask: Runs | None
    ) -> list[dict[str, Any]]:
        """The mask in a box, asked on a crop around it at the object's own scale."""
        pixels = self.pictures.pixels(path)
        # Only the surroundings are made floating-point numbers: a large image would take a gigabyte.
        reach = 1.5 * max(box[2] - box[0], box[3] - box[1]) + AROUND
        x0, y0 = max(0, int(box[0] - reach)), max(0, int(box[1] - reach))
        x1, y1 = min(size[0], int(box[2] + reach) + 1), min(size[1], int(box[3] + reach) + 1)
        part = torch.from_numpy(np.ascontiguousarray(pixels[y0:y1, x0:x1])).permute(2, 0, 1)[None].float() / 255
        clicks = [[x - x0, y - y0, on] for x, y, on in points if x0 <= x <= x1 and y0 <= y <= y1]
        moved = torch.tensor([[box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0]])
        previous = None
        if mask is not None:
            previous = mask_logits(to_grid(torch.from_numpy(mask.whole(size)[y0:y1, x0:x1].copy()), self.sam.size))[
                None
            ]
        looks = look_closer(
            self.sam,
            part,
            torch.zeros(1, dtype=torch.long),
            moved.float(),
            prompts_of(clicks, None, torch.ones(2)) if clicks else None,
            previous,
        )
        on = looks.on_image((x1 - x0, y1 - y0))[0].numpy() > 0
        runs = Runs.of_mask(on, (x0, y0))
        return [] if runs is None else [{"mask": runs.as_json(), "score": round(float(looks.iou[0]), 4)}]

    @torch.no_grad()
    def carry_over(
        self, example: Path, masks: Mapping[int, NDArray[np.bool_]], path: Path, size: Size
    ) -> list[dict[str, Any]]:
        """The labels of an example carried over: SAM's memory is shown the example and recalls it.

        Args:
            masks: of the example by category, (H, W).
            size: (width, height) of the other image.

        Returns:
            Objects with scores.
        """
        sam, shown, wanted = self.sam, self.embedding(example), self.embedding(path)
        names = sorted(masks)
        squashed = torch.stack([to_grid(torch.from_numpy(masks[name]), sam.size) for name in names])
        memory = sam.remember(shown, squashed[None])
        per_object = type(memory)(memory.features[:, :, None], memory.pointers[:, :, None])
        answers = sam.decode(sam.recall(wanted, per_object))
        parts = []
        for place, name in enumerate(names):
            presence = float(answers.presence[0, place].sigmoid())
            mask = to_image(answers.best[0, place], size)
            if presence > 0.5 and mask is not None:
                whole, offset = mask
                score = presence * float(answers.best_iou[0, place])
                parts += [(part, name, score, offset) for part in parts_of(whole)]
        return objects_of(parts)
