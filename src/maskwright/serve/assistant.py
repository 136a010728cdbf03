"""SAM and trained models at work for the page: masks for clicks and boxes, proposals for whole images.

One thread asks the networks, so that requests never share their memory; each image is encoded once, and the next one ahead. Of several
questions about one image that wait, only the newest is answered.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from maskwright.api import load
from maskwright.data.geometry import resize_matrix, squash, warp_maps
from maskwright.engine.predictor import Predictor
from maskwright.errors import MaskwrightError
from maskwright.methods.clicks.agent import mask_logits
from maskwright.sam.closer_look import look_closer
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Sam
from maskwright.serve.tiles import Pictures
from maskwright.serve.wire import Runs, Size, WireError

Answer = TypeVar("Answer")

EMBEDDINGS = 64
"""Images whose embeddings stay in memory: 1.3 MB each with ``nano`` at 256 pixels."""

SMALL = 0.35
"""A box whose longer side is a smaller share of the image's gets a closer look of its own accord."""

AROUND = 8
"""Pixels around a closer look's window that are cut out with it."""

SMALLEST = 12
"""Pixels of a proposal's part at least: smaller ones are noise of a segmenter's outline."""


class Assistant:
    """Answers for one dataset.

    Args:
        sam: what ``Sam.load`` takes.
        pictures: gives the images' pixels.
    """

    def __init__(self, sam: str, pictures: Pictures) -> None:
        self.name, self.pictures = sam, pictures
        self.state, self.message = "loading", ""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="networks")
        self._mutex = threading.Lock()
        self._newest: dict[Path, int] = {}
        self._count = 0
        self._embeddings: OrderedDict[Path, Embedding] = OrderedDict()
        self._models: dict[Path, tuple[int, Predictor]] = {}
        self._sam: Sam | None = None
        self.encoded = 0
        self._worker.submit(self._load)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        try:
            torch.set_flush_denormal(True)
            self._sam = Sam.load(self.name).requires_grad_(False)
            self.state = "ready"
        except MaskwrightError as error:
            self.state, self.message = "absent", str(error)

    def _ready(self) -> Sam:
        if self._sam is None:
            raise WireError(f"SAM is not there: {self.message or 'still loading'}", 503)
        return self._sam

    # -------------------------------------------------------------------------------------------------- questions

    def encode(self, path: Path) -> None:
        """Encode an image ahead of the first question about it."""
        self._worker.submit(self._embedded, path)

    def is_encoded(self, path: Path) -> bool:
        return path in self._embeddings

    def predict(
        self,
        path: Path,
        size: Size,
        points: Sequence[Sequence[float]],
        box: Sequence[float] | None,
        mask: Runs | None,
        *,
        several: bool = False,
        closer: bool | None = None,
    ) -> Future[dict[str, Any] | None]:
        """SAM's masks for one object.

        Args:
            size: (width, height) of the image; all places are in its pixels.
            points: x, y, and 1 on the object or 0 off it.
            mask: an answer so far, to be refined.
            several: the three candidates for a click that may mean several things, the likeliest first.
            closer: look closer at a box; None: where it is small.

        Returns:
            ``{"candidates": [{"mask", "score"}], "ms"}`` once it is there; None where a newer question about the image has been asked.
        """
        if not points and box is None and mask is None:
            raise WireError("give a point, a box or a mask")
        with self._mutex:
            self._count += 1
            number = self._newest[path] = self._count
        if closer is None and box is not None:
            closer = max((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) < SMALL

        def answer() -> dict[str, Any] | None:
            if self._newest[path] != number:
                return None
            begun = time.perf_counter()
            if box is not None and closer:
                candidates = self._closer(path, points, box, mask, size)
            else:
                candidates = self._asked(path, size, points, box, mask, several)
            return {"candidates": candidates, "ms": round(1000 * (time.perf_counter() - begun), 1)}

        return self._worker.submit(answer)

    def propose(self, path: Path, model: Path, categories: Sequence[str]) -> Future[list[dict[str, Any]]]:
        """What a trained model sees in an image, as objects with scores.

        Raises (in the future):
            WireError: a model of other categories.
            MaskwrightError: no model there.
        """

        def answer() -> list[dict[str, Any]]:
            predictor = self._model(model)
            unknown = [name for name in predictor.categories[1:] if name not in categories]
            if unknown:
                raise WireError(f"the model knows {unknown[0]!r}, which this dataset does not; add the category")
            prediction = next(iter(predictor.predict([path])))
            ids = [categories.index(name) for name in predictor.categories]
            if predictor.holds_instances:
                found = [(k, ids[one.category], one.score) for k, one in enumerate(prediction.objects, 1)]  # type: ignore[attr-defined]
                return _objects((prediction.mask == k, category, score) for k, category, score in found)
            scores = prediction.scores
            parts = []
            for number, name in enumerate(predictor.categories):
                if number:
                    parts += [(part, ids[number], scores.get(name, 0.0)) for part in _parts(prediction.mask == number)]
            return _objects(parts)

        return self._worker.submit(answer)

    def carry_over(
        self, example: Path, masks: dict[int, NDArray[np.bool_]], path: Path, size: Size
    ) -> Future[list[dict[str, Any]]]:
        """The labels of an example carried over to another image: SAM's memory is shown the example and recalls it.

        Args:
            masks: of the example by category, (H, W) bool.
            size: (width, height) of the other image.
        """

        @torch.no_grad()
        def answer() -> list[dict[str, Any]]:
            sam, shown, wanted = self._ready(), self._embedded(example), self._embedded(path)
            names = sorted(masks)
            squashed = torch.stack([_to_grid(torch.from_numpy(masks[name]), sam.size) for name in names])
            memory = sam.remember(shown, squashed[None])
            per_object = type(memory)(memory.features[:, :, None], memory.pointers[:, :, None])
            answers = sam.decode(sam.recall(wanted, per_object))
            parts = []
            for place, name in enumerate(names):
                presence = float(answers.presence[0, place].sigmoid())
                mask = _to_image(answers.best[0, place], size)
                if presence > 0.5 and mask is not None:
                    whole, offset = mask
                    score = presence * float(answers.best_iou[0, place])
                    parts += [(part, name, score, offset) for part in _parts(whole)]
            return _objects(parts)

        return self._worker.submit(answer)

    def run(self, question: Callable[[], Answer]) -> Future[Answer]:
        """Ask something else of the networks, in their thread."""
        return self._worker.submit(question)

    # -------------------------------------------------------------------------------------------------- answers

    @torch.no_grad()
    def _embedded(self, path: Path) -> Embedding:
        sam = self._ready()
        if path not in self._embeddings:
            pixels = squash(self.pictures.pixels(path), sam.size)
            self._embeddings[path] = sam.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
            self.encoded += 1
            while len(self._embeddings) > EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(path)
        return self._embeddings[path]

    @torch.no_grad()
    def _asked(
        self,
        path: Path,
        size: Size,
        points: Sequence[Sequence[float]],
        box: Sequence[float] | None,
        mask: Runs | None,
        several: bool,
    ) -> list[dict[str, Any]]:
        sam, embedding = self._ready(), self._embedded(path)
        scale = torch.tensor([sam.size / size[0], sam.size / size[1]])
        prompts = _prompts(points, box, scale)
        previous = None
        if mask is not None:
            whole = np.zeros((size[1], size[0]), np.float32)
            mask.paint(whole, 1)
            previous = mask_logits(_to_grid(torch.from_numpy(whole), sam.size // 4))[None, None]
        # One click may mean a part or the whole: three masks are asked for, and without `several` the likeliest is taken.
        answers = sam.decode(
            embedding, prompts, previous, several or (len(points) == 1 and box is None and mask is None)
        )
        order = answers.iou[0, 0].argsort(descending=True).tolist()
        found = []
        for place in order if several else order[:1]:
            runs = _runs(answers.logits[0, 0, place], size)
            if runs is not None:
                found.append({"mask": runs.as_json(), "score": round(float(answers.iou[0, 0, place]), 4)})
        return found

    def _closer(
        self,
        path: Path,
        points: Sequence[Sequence[float]],
        box: Sequence[float],
        mask: Runs | None,
        size: Size,
    ) -> list[dict[str, Any]]:
        """SAM's mask in a box, asked on a crop around it at the object's own scale."""
        sam, pixels = self._ready(), self.pictures.pixels(path)
        # Only the surroundings are made floating-point numbers: a large image would take a gigabyte.
        reach = 1.5 * max(box[2] - box[0], box[3] - box[1]) + AROUND
        x0, y0 = max(0, int(box[0] - reach)), max(0, int(box[1] - reach))
        x1, y1 = min(size[0], int(box[2] + reach) + 1), min(size[1], int(box[3] + reach) + 1)
        part = torch.from_numpy(np.ascontiguousarray(pixels[y0:y1, x0:x1])).permute(2, 0, 1)[None].float() / 255
        clicks = [[x - x0, y - y0, on] for x, y, on in points if x0 <= x <= x1 and y0 <= y <= y1]
        moved = torch.tensor([[box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0]])
        previous = None
        if mask is not None:
            whole = np.zeros((size[1], size[0]), np.float32)
            mask.paint(whole, 1)
            area = _to_grid(torch.from_numpy(whole[y0:y1, x0:x1].copy()), sam.size)
            previous = mask_logits(area)[None]
        looks = look_closer(
            sam,
            part,
            torch.zeros(1, dtype=torch.long),
            moved.float(),
            _prompts(clicks, None, torch.ones(2)) if clicks else None,
            previous,
        )
        on = looks.on_image((x1 - x0, y1 - y0))[0].numpy() > 0
        runs = Runs.of_mask(on, (x0, y0))
        return [] if runs is None else [{"mask": runs.as_json(), "score": round(float(looks.iou[0]), 4)}]

    def _model(self, folder: Path) -> Predictor:
        """The predictor of a run; read again when its model has changed."""
        weights = folder / "model" / "model.safetensors"
        changed = weights.stat().st_mtime_ns if weights.is_file() else 0
        if folder not in self._models or self._models[folder][0] != changed:
            self._models[folder] = changed, load(folder)
        return self._models[folder][1]


def _prompts(points: Sequence[Sequence[float]], box: Sequence[float] | None, scale: Tensor) -> Prompts | None:
    """Clicks x, y, 1 or 0, and a box, moved by ``scale`` (2,) onto the canvas."""
    parts = []
    if points:
        table = torch.tensor(points, dtype=torch.float32)
        parts.append(Prompts.of_points((table[:, :2] * scale)[None, None], table[None, None, :, 2].long()))
    if box is not None:
        parts.append(Prompts.of_boxes(torch.tensor(box, dtype=torch.float32)[None, None] * scale.repeat(2)))
    return None if not parts else parts[0] if len(parts) == 1 else parts[0].join(parts[1])


def _to_grid(mask: Tensor, side: int) -> Tensor:
    """(H, W) in 0..1 → (side, side), the share of each cell that is covered; of an image smaller than that, bilinearly."""
    return torch.nn.functional.interpolate(
        mask.float()[None, None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )[0, 0].clamp(0, 1)


def _to_image(logits: Tensor, size: Size) -> tuple[NDArray[np.bool_], tuple[int, int]] | None:
    """Logits (h, w) that cover an image → the mask within the part that it may reach, and where that lies; None: it is empty.

    Only this part is enlarged: most objects are small, and some images very large.
    """
    on = (logits > 0).nonzero()
    if not len(on):
        return None
    rows, columns = logits.shape
    (y0, x0), (y1, x1) = (on.amin(0) - 1).clamp(min=0).tolist(), (on.amax(0) + 2).tolist()
    left, top = int(x0 * size[0] / columns), int(y0 * size[1] / rows)
    right = min(size[0], int(np.ceil(min(x1, columns) * size[0] / columns)))
    bottom = min(size[1], int(np.ceil(min(y1, rows) * size[1] / rows)))
    matrix = torch.from_numpy(resize_matrix((columns, rows), size)).float()
    matrix[:, 2] -= torch.tensor([left, top])
    part = warp_maps(logits[None, None].float(), matrix[None], (right - left, bottom - top))[0, 0]
    return (part > 0).cpu().numpy(), (left, top)


def _runs(logits: Tensor, size: Size) -> Runs | None:
    found = _to_image(logits, size)
    return None if found is None else Runs.of_mask(*found)


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected parts of a mask, but for specks, each as a mask of the same size."""
    labels, count = ndimage.label(mask)  # type: ignore[misc]
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)
    return [labels == number for number in range(1, count + 1) if sizes[number] >= SMALLEST]


def _objects(parts: Any) -> list[dict[str, Any]]:
    """Objects of proposals from (mask, category, score) or (mask, category, score, offset)."""
    found = []
    for mask, category, score, *offset in parts:
        runs = Runs.of_mask(mask, *offset)
        if runs is not None:
            entry = {"kind": "mask", "category": category, "source": "proposal", "mask": runs.as_json()}
            found.append(entry | {"id": f"proposal-{len(found)}", "score": round(float(score), 4)})
    return found
