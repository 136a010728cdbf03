"""SAM in ONNX at work, with ``onnxruntime`` and without PyTorch: encode an image once, then ask about clicks and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.image_reading import PLAIN
from maskwright.engine.prediction import ImageLike, name_of, pixels_of
from maskwright.errors import WeightsError
from maskwright.export.onnx_file import OnnxFile

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
"""Files of a folder that ``maskwright sam export`` wrote."""


@dataclass(frozen=True)
class EncodedImage:
    """What SAM has to know of an image.

    Attributes:
        features: ``high0``, ``high1`` and ``low`` by name, as the decoder takes them.
        size: (width, height) in pixels.
    """

    features: dict[str, NDArray[np.float32]]
    size: tuple[int, int]


@dataclass(frozen=True)
class SamAnswer:
    """SAM's answer about one object.

    Attributes:
        mask: (H, W) bool, in the image's own pixels.
        iou: 0..1, what SAM expects of it.
        logits: (S/4, S/4) float32; with the next clicks, give them as ``previous``.
    """

    mask: NDArray[np.bool_]
    iou: float
    logits: NDArray[np.float32]


class OnnxSam:
    """SAM from a folder that ``maskwright sam export`` wrote.

    >>> sam = OnnxSam("nano-onnx")
    >>> image = sam.encode("cat.jpg")
    >>> answer = sam.decode(image, points=[(240, 180)], labels=[1])
    >>> better = sam.decode(image, points=[(240, 180), (300, 90)], labels=[1, 0], previous=answer.logits)

    Raises:
        MissingPackageError: ``onnxruntime`` is not installed.
        WeightsError: a file is missing, damaged, or of another SAM than the other.
    """

    def __init__(self, folder: str | Path) -> None:
        self.encoder = OnnxFile.open(Path(folder, ENCODER), ("sam-encoder",))
        self.decoder = OnnxFile.open(Path(folder, DECODER), ("sam-decoder",))
        self.size: int = self.encoder.facts["size"]
        if self.decoder.facts["signature"] != self.encoder.facts["signature"]:
            raise WeightsError(f"{folder}: encoder and decoder are of different SAMs; export both again")

    def encode(self, image: ImageLike) -> EncodedImage:
        """An image: a path, a Pillow image or an array ``(H, W, 3)``. Raises DataError for one that cannot be read."""
        pixels = pixels_of(image, name_of(image) or "0", PLAIN)
        high0, high1, low = self.encoder.run({"image": pixels[None]})
        features = {"high0": high0, "high1": high1, "low": low}
        return EncodedImage(features, (pixels.shape[1], pixels.shape[0]))

    def decode(
        self,
        image: EncodedImage,
        points: Sequence[tuple[float, float]] = (),
        labels: Sequence[int] = (),
        *,
        box: tuple[float, float, float, float] | None = None,
        previous: NDArray[np.float32] | None = None,
    ) -> SamAnswer:
        """The mask of one object.

        Args:
            image: what :meth:`encode` gave.
            points: clicks, x and y in pixels of the image.
            labels: of each, 1 on the object or 0 off it.
            box: ``x0 y0 x1 y1`` around the object, half-open.
            previous: logits of an earlier answer about the same object.

        Raises:
            ValueError: no click and no box, or not a label for each click.
        """
        if len(points) != len(labels) or (not points and box is None):
            raise ValueError(
                f"{len(points)} clicks with {len(labels)} labels, box {box}: a label for each click, or a box, is needed"
            )
        corners = [(box[0], box[1]), (box[2], box[3])] if box else []
        places, kinds = [*points, *corners], [*labels, *([2, 3] if box else [])]
        side = self.size // 4
        earlier = np.zeros((side, side), np.float32) if previous is None else previous
        logits, iou, _ = self.decoder.run(
            {
                **image.features,
                "size": np.array([image.size], np.float32),
                "points": np.array(places, np.float32)[None, None],
                "labels": np.array(kinds, np.int64)[None, None],
                "previous": earlier[None, None],
                "has_previous": np.array([[previous is not None]]),
            }
        )
        # A single click may mean a part or the whole: the best of three. More is meant in one way.
        best = 1 + int(iou[0, 0, 1:].argmax()) if len(places) == 1 and previous is None else 0
        chosen = logits[0, 0, best]
        own = Image.fromarray(chosen).resize(image.size, Image.Resampling.BILINEAR)
        return SamAnswer(np.asarray(own) > 0, float(iou[0, 0, best]), chosen)
