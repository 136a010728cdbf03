"""Which model becomes which file in ONNX, and what its answers are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.fields import read_json
from maskwright.data.geometry import Size, resize_matrix, squash, unwarp_logits
from maskwright.data.image_reading import PLAIN
from maskwright.data.new_folder import new_folder
from maskwright.engine.predictor import Predictor
from maskwright.engine.weights import checksums
from maskwright.errors import MaskwrightError
from maskwright.export.exported import Exported
from maskwright.export.graphs import DecoderGraph, DenseGraph, EncoderGraph, SegmenterGraph
from maskwright.export.onnx_sam import DECODER, ENCODER
from maskwright.export.onnx_writer import CATEGORIES, Case, Graph, write
from maskwright.methods.instances.dense_detections import logits_of
from maskwright.methods.instances.predictor import InstancePredictor
from maskwright.methods.semantic.predictor import SegmenterPredictor
from maskwright.nets.dense_grid import MULTIPLE
from maskwright.nets.dense_instances import DenseSegmenter
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Sam

_IMAGES = {0: "batch", 1: "height", 2: "width"}


def export_predictor(predictor: Predictor, path: Path) -> Exported:
    """A trained model as one file.

    Raises:
        MaskwrightError: a kind of model that cannot be exported, or what :func:`maskwright.export.onnx_writer.write` raises.
    """
    if predictor.crop is not None and not isinstance(predictor, InstancePredictor):
        raise MaskwrightError(
            f"{predictor.folder}: learnt from crops of {predictor.crop:g} pixels and slides them over images, which a file in ONNX "
            "does not; use the run itself, or train without --crop"
        )
    predictor.to("cpu")
    if type(predictor) is SegmenterPredictor:
        return _export_segmenter(predictor, path)
    if isinstance(predictor, InstancePredictor) and isinstance(predictor.network, DenseSegmenter):
        return _export_dense(predictor, predictor.network, path)
    if isinstance(predictor, InstancePredictor):
        raise MaskwrightError(
            f"{predictor.folder}: a segmenter of queries is not exported; train a dense one (--decoder dense of the recipe s4m)"
        )
    raise MaskwrightError(
        f"{predictor.folder}: a model of the recipe {predictor.recipe} works with SAM step by step and is not exported; "
        "semantic segmenters (samix) and dense instance segmenters (s4m) are, and SAM itself with `maskwright sam export`"
    )


def export_sam(sam: Sam, folder: Path) -> list[Exported]:
    """SAM's encoder and decoder as two files in a new folder.

    Raises:
        DataError: the folder is there already, or cannot be written.
        MaskwrightError: what :func:`maskwright.export.onnx_writer.write` raises.
    """
    sam = sam.eval().requires_grad_(False)
    with new_folder(folder) as aside:
        written = [_export_encoder(sam, aside / ENCODER), _export_decoder(sam, aside / DECODER)]
    return [Exported(folder / one.path.name, one.opset, one.differences, one.bytes) for one in written]


def _export_segmenter(predictor: SegmenterPredictor, path: Path) -> Exported:
    graph = Graph(
        kind="semantic",
        module=SegmenterGraph(predictor.network),
        example={"image": torch.from_numpy(np.stack([picture((40, 48)), picture((40, 48), 1)]))},
        axes={"image": _IMAGES},
        outputs=(CATEGORIES, "probability"),
        facts=_facts_of(predictor),
    )
    side = predictor.size
    cases = [_segmented(predictor, np.stack([picture((side, side), seed) for seed in range(2)]))]
    # Of another size the canvas differs by a level here and there, so only the masks are compared.
    other = _segmented(predictor, picture((side * 5 // 4, side * 7 // 4), 2)[None])
    cases.append(Case(other.inputs, {CATEGORIES: other.expected[CATEGORIES]}))
    return write(graph, path, cases)


def _segmented(predictor: SegmenterPredictor, images: NDArray[np.uint8]) -> Case:
    """Images ``(B, H, W, 3)`` with what PyTorch answers, as ``Predictor.restore`` brings it back to their own pixels."""
    height, width = images.shape[1:3]
    logits = predictor.logits(np.stack([squash(image, predictor.size) for image in images]))
    matrices = (
        torch.from_numpy(resize_matrix((width, height), predictor.size))[None].float().expand(len(images), -1, -1)
    )
    own = torch.stack(unwarp_logits(logits, matrices, [(width, height)] * len(images), canvas=predictor.size))
    best = own.softmax(1).max(1)
    expected = {CATEGORIES: best.indices.to(torch.uint8).numpy(), "probability": best.values.numpy()}
    return Case({"image": images}, expected)


def _export_dense(predictor: InstancePredictor, network: DenseSegmenter, path: Path) -> Exported:
    graph = Graph(
        kind="instances",
        module=DenseGraph(network),
        example={"view": torch.from_numpy(np.stack([picture((96, 64)), picture((96, 64), 1)]))},
        axes={"view": _IMAGES},
        outputs=("logits",),
        facts={**_facts_of(predictor), "zoom": float(network.zoom)},
        steps={"height": MULTIPLE, "width": MULTIPLE},
    )
    sizes: list[Size] = [(predictor.size, predictor.size), (MULTIPLE, 3 * MULTIPLE), (5 * MULTIPLE, 2 * MULTIPLE)]
    views = [picture(size, seed) for seed, size in enumerate(sizes)]
    return write(graph, path, [Case({"view": one[None]}, {"logits": logits_of(network, one)[None]}) for one in views])


def _facts_of(predictor: Predictor) -> dict[str, Any]:
    reading = predictor.image_reading
    return {
        "recipe": predictor.recipe,
        "categories": list(predictor.categories),
        "size": predictor.size,
        "signature": predictor.signature,
        "checksums": checksums(predictor.folder, read_json(predictor.folder / "config.json")),
        **({"image_reading": reading.as_dict()} if reading != PLAIN else {}),
    }


def _export_encoder(sam: Sam, path: Path) -> Exported:
    names = ("high0", "high1", "low")
    graph = Graph(
        kind="sam-encoder",
        module=EncoderGraph(sam),
        example={"image": torch.from_numpy(np.stack([picture((40, 48)), picture((40, 48), 1)]))},
        axes={"image": _IMAGES},
        outputs=names,
        facts={"size": sam.size, "signature": sam.signature()},
    )
    cases = []
    for count in (1, 2):
        images = np.stack([picture((sam.size, sam.size), seed) for seed in range(count)])
        embedding = _encoded(sam, images)
        cases.append(Case({"image": images}, {name: getattr(embedding, name).numpy() for name in names}))
    return write(graph, path, cases)


@torch.inference_mode()
def _encoded(sam: Sam, images: NDArray[np.uint8]) -> Embedding:
    return sam.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


def _export_decoder(sam: Sam, path: Path) -> Exported:
    graph = Graph(
        kind="sam-decoder",
        module=DecoderGraph(sam),
        example={name: torch.from_numpy(value) for name, value in _asked(sam, 2, 3, 4).inputs.items()},
        axes={
            **{name: {0: "batch"} for name in ("high0", "high1", "low", "size")},
            **{name: {0: "batch", 1: "objects", 2: "points"} for name in ("points", "labels")},
            **{name: {0: "batch", 1: "objects"} for name in ("previous", "has_previous")},
        },
        outputs=("logits", "iou", "presence"),
        facts={"size": sam.size, "signature": sam.signature()},
    )
    return write(graph, path, [_asked(sam, 1, 1, 1), _asked(sam, 2, 3, 5)])


@torch.inference_mode()
def _asked(sam: Sam, batch: int, objects: int, count: int) -> Case:
    """Prompts of all kinds about images, in their own pixels, with what the four verbs answer in those of the canvas."""
    random = np.random.default_rng([batch, objects, count])
    images = np.stack([picture((sam.size, sam.size), seed) for seed in range(batch)])
    embedding, quarter = _encoded(sam, images), sam.size // 4
    size = np.array([[640.0, 480.0]] * batch, np.float32)
    points = (random.random((batch, objects, count, 2)) * size[0]).astype(np.float32)
    labels = random.integers(-1, 4, (batch, objects, count))
    labels[..., 0] = 1
    previous = random.normal(0, 4, (batch, objects, quarter, quarter)).astype(np.float32)
    has_previous = random.random((batch, objects)) > 0.5
    inwards = 0.5 * ((labels == 2).astype(np.float32) - (labels == 3))[..., None]
    onto = torch.from_numpy(points * (sam.size / size[0]) + inwards).float()
    prompts, earlier = Prompts.of_points(onto, torch.from_numpy(labels)), torch.from_numpy(previous)
    one, three = (
        sam.decode(embedding, prompts, earlier, many, torch.from_numpy(has_previous)) for many in (False, True)
    )
    features = {name: getattr(embedding, name).numpy() for name in ("high0", "high1", "low")}
    given = {"size": size, "points": points, "labels": labels, "previous": previous, "has_previous": has_previous}
    expected = {
        "logits": torch.cat([one.logits, three.logits], 2).numpy(),
        "iou": torch.cat([one.iou, three.iou], 2).numpy(),
        "presence": one.presence.numpy(),
    }
    return Case({**features, **given}, expected)


def picture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Patches of colour that flow into one another, ``(H, W, 3)`` uint8: what networks are compared on. ``size`` is (H, W)."""
    height, width = size
    patches = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
