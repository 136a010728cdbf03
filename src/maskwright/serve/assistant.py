"""SAM and trained models at work: masks for clicks and boxes, proposals for whole images, corrections by a click agent.

One thread asks the networks, so that requests never share their memory; each image is encoded once, and the next one ahead. Of several
questions about one image that wait, only the newest is answered, unless the asker wants all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.api import load
from maskwright.engine.predictor import Predictor
from maskwright.errors import MaskwrightError
from maskwright.methods.clicks.predictor import ClickPredictor
from maskwright.sam.sam import Sam
from maskwright.serve.canvas_masks import objects_of, parts_of
from maskwright.serve.sam_answers import SamAnswers
from maskwright.serve.tiles import Pictures
from maskwright.serve.wire import Runs, Size, WireError

Answer = TypeVar("Answer")

SMALL = 0.35
"""A box whose longer side is a smaller share of the image's gets a closer look of its own accord."""


MAX_WAITING = 1_000
"""Questions that may wait for the networks."""


class Assistant:
    """Answers about images, in a thread of its own.

    Args:
        sam: what ``Sam.load`` takes.
        pictures: gives the images' pixels.

    Attributes:
        state: ``loading``, ``ready``, ``absent`` (there is no such SAM) or ``failed`` (something went wrong); ``message`` says why.
        signature: of SAM's weights, once it is ready.
    """

    def __init__(self, sam: str, pictures: Pictures) -> None:
        self.name, self.pictures = sam, pictures
        self.state, self.message, self.signature = "loading", "", ""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="networks")
        self._mutex = threading.Lock()
        self._newest: dict[Path, int] = {}
        self._count = self._waiting = 0
        self._encoding: dict[Path, Future[None]] = {}
        self._models: dict[Path, tuple[int, Predictor]] = {}
        self._on_this_sam: set[Path] = set()
        self._answers: SamAnswers | None = None
        self._worker.submit(self._load)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        try:
            torch.set_flush_denormal(True)
            sam = Sam.load(self.name).requires_grad_(False)
            self.signature = sam.signature()
            self._answers = SamAnswers(sam, self.pictures)
            self.state = "ready"
        except MaskwrightError as error:
            self.state, self.message = "absent", str(error)
        except Exception as error:
            # Whatever it is, the page must be told that SAM does not come: labelling by hand goes on.
            logging.getLogger(__name__).exception("SAM cannot be loaded")
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"

    @property
    def sam(self) -> SamAnswers:
        """Raises WireError where it is not there, or not yet."""
        if self._answers is None:
            raise WireError(f"SAM is not there: {self.message or 'still loading'}", 503)
        return self._answers

    @property
    def encoded(self) -> int:
        """How often an image was encoded."""
        return self._answers.encoded if self._answers else 0

    # -------------------------------------------------------------------------------------------------- questions

    def encode(self, path: Path) -> bool:
        """Encode an image ahead of the first question about it; whether that is done. Raises DataError where it could not be read."""
        if self.sam.is_encoded(path):
            return True
        under_way = self._encoding.get(path)
        if under_way is None:
            future = self._encoding[path] = self._submit(lambda: self._encode(path))
            # What has failed stays, so that whoever asks next is told.
            future.add_done_callback(lambda done: None if done.exception() else self._encoding.pop(path, None))
        elif under_way.done():
            del self._encoding[path]
            under_way.result()
        return False

    def _encode(self, path: Path) -> None:
        self.sam.embedding(path)

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
        may_lapse: bool = True,
    ) -> Future[dict[str, Any] | None]:
        """SAM's masks for one object.

        Args:
            size: (width, height) of the image; all places are in its pixels.
            points: x, y, and 1 on the object or 0 off it.
            mask: an answer so far, to be refined.
            several: the three candidates for a click that may mean several things, the likeliest first.
            closer: look closer at a box; None: where it is small.
            may_lapse: a newer question about the image makes this one needless.

        Returns:
            ``{"candidates": [{"mask", "score"}], "ms"}`` once it is there; None where a newer question about the image has been asked.
        """
        if not points and box is None and mask is None:
            raise WireError("give a point, a box or a mask")
        number = 0
        if may_lapse:
            with self._mutex:
                self._count += 1
                number = self._newest[path] = self._count
        if closer is None and box is not None:
            closer = max((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) < SMALL

        def answer() -> dict[str, Any] | None:
            if may_lapse:
                with self._mutex:
                    if self._newest.get(path) != number:
                        return None
                    del self._newest[path]
            begun = time.perf_counter()
            if box is not None and closer:
                candidates = self.sam.closer(path, size, points, box, mask)
            else:
                candidates = self.sam.masks(path, size, points, box, mask, several)
            return {"candidates": candidates, "ms": round(1000 * (time.perf_counter() - begun), 1)}

        return self._submit(answer)

    def propose(self, path: Path, run: Path, categories: Sequence[str] | None) -> Future[list[dict[str, Any]]]:
        """What a trained model sees in an image, as objects with scores.

        Args:
            run: of the model.
            categories: names by id that the objects refer to; None: the model's own.

        Raises (in the future):
            WireError: the model has categories that are not among these.
            MaskwrightError: no model there.
        """

        def answer() -> list[dict[str, Any]]:
            predictor = self._predictor(run)
            names = predictor.categories if categories is None else categories
            unknown = [name for name in predictor.categories[1:] if name not in names]
            if unknown:
                raise WireError(f"the model knows {unknown[0]!r}, which is no category here; add it")
            prediction = next(iter(predictor.predict([path])))
            ids = [names.index(name) if number else 0 for number, name in enumerate(predictor.categories)]
            if predictor.holds_instances:
                found = [(k, ids[one.category], one.score) for k, one in enumerate(prediction.objects, 1)]  # type: ignore[attr-defined]
                return objects_of((prediction.mask == k, category, score) for k, category, score in found)
            scores, parts = prediction.scores, []
            for number, name in enumerate(predictor.categories[1:], 1):
                parts += [(part, ids[number], scores.get(name, 0.0)) for part in parts_of(prediction.mask == number)]
            return objects_of(parts)

        return self._submit(answer)

    def carry_over(
        self, example: Path, masks: Mapping[int, NDArray[np.bool_]], path: Path, size: Size
    ) -> Future[list[dict[str, Any]]]:
        """The labels of an example carried over to another image, see :meth:`SamAnswers.carry_over`."""
        return self._submit(lambda: self.sam.carry_over(example, masks, path, size))

    def correct(
        self,
        path: Path,
        size: Size,
        points: Sequence[Sequence[float]],
        box: Sequence[float] | None,
        mask: Runs | None,
        agent: Path,
    ) -> Future[dict[str, Any]]:
        """What a trained click agent answers: to clicks and a box, or to a mask, which it corrects where it expects a better one.

        Args:
            size: (width, height) of the image; all places are in its pixels.
            points: x, y, and 1 on the object or 0 off it.
            mask: given instead of points and box.
            agent: its run.

        Returns (in the future):
            ``{"mask", "clicks", "quality"}``: the agent's clicks that were kept as x, y, and 1 on the object or 0 off it. A given mask that
            none of them improved, or of which nothing would be left, comes back as it was; clicks and a box that show nothing give None.
            ``quality``: the Dice that the agent expects, or None.
        """
        if (mask is None) == (not points and box is None):
            raise WireError("give a mask to be corrected, or else points or a box")

        def answer() -> dict[str, Any]:
            predictor = self._predictor(agent)
            if not isinstance(predictor, ClickPredictor):
                raise WireError(f"the model of {agent.name} is no click agent")
            # An agent that stands on the same SAM takes the embedding that is there already.
            embedding = self.sam.embedding(path) if agent in self._on_this_sam else None
            pixels, given = self.pictures.pixels(path), None if mask is None else mask.as_json()
            if mask is None:
                places, labels = [(x, y) for x, y, _ in points], ["fg" if on else "bg" for *_, on in points]
                found = predictor.answer(pixels, places, labels, box, embedding)
            else:
                found = predictor.correct(pixels, mask.whole(size) > 0, embedding)
            runs, name = Runs.of_mask(found.mask > 0), predictor.categories[1]
            if runs is None:
                return {"mask": given, "clicks": [], "quality": None}
            clicks = [[round(x, 1), round(y, 1), int(label == "fg")] for x, y, label in found.clicks[name]]
            quality = round(found.scores[name], 4) if predictor.agent.quality is not None else None
            return {"mask": runs.as_json() if clicks or given is None else given, "clicks": clicks, "quality": quality}

        return self._submit(answer)

    def version_of(self, run: Path | None) -> Future[str]:
        """What changes with the weights that answer: of a trained model, else of SAM."""

        def answer() -> str:
            if run is not None:
                return self._predictor(run).signature
            assert self.sam
            return self.signature[:16]

        return self._submit(answer)

    def _submit(self, question: Callable[[], Answer]) -> Future[Answer]:
        """Ask the networks, in their thread. Raises WireError where too many questions wait already."""
        with self._mutex:
            if self._waiting >= MAX_WAITING:
                raise WireError("too many questions wait for the networks; try again", 503)
            self._waiting += 1
        future = self._worker.submit(question)
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: Future[Any]) -> None:
        with self._mutex:
            self._waiting -= 1

    def _predictor(self, run: Path) -> Predictor:
        """The predictor of a run; read again when its model has changed."""
        files = [folder / "model.safetensors" for folder in (run / "model", run)]
        changed = next((path.stat().st_mtime_ns for path in files if path.is_file()), 0)
        if run not in self._models or self._models[run][0] != changed:
            predictor = load(run)
            self._models[run] = changed, predictor
            self._on_this_sam.discard(run)
            if isinstance(predictor, ClickPredictor) and self._answers is not None:
                sam, own = predictor.agent.sam, self._answers.sam
                if sam.size == own.size and sam.signature() == self.signature:
                    self._on_this_sam.add(run)
        return self._models[run][1]
