"""The head that dense segmenters on the bundled SAM begin with: it knows what objects are, before it has seen one of the user's.

Made by ``tools/pretrain_instance_head.py`` on the image encoder of ``nano`` as it comes, and of use on that alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from maskwright.engine.files import write_tensors
from maskwright.engine.weights import load_tensors
from maskwright.nets.dense_instances import CATEGORY_HEADS, DenseSegmenter
from maskwright.sam.sam import Sam

BUNDLED = Path(__file__).with_name("nano_head.safetensors")
"""Of segmenters on ``nano``."""

_SAM = "sam"
_ENCODER = "trunk."


def save_head(network: DenseSegmenter, sam: Sam, path: Path) -> None:
    """Write all but the image encoder of a segmenter of one category, in float16, with the signature of the SAM that it stands on."""
    head = {name: tensor.half() for name, tensor in network.state_dict().items() if not name.startswith(_ENCODER)}
    write_tensors(path, head, {_SAM: sam.signature(configured=False)})


@torch.no_grad()
def begin_with_head(network: DenseSegmenter, sam: Sam, path: Path = BUNDLED) -> bool:
    """Let an untrained segmenter on ``sam`` begin with the head of ``path``, each of its categories with what is known of any object.

    Returns:
        Whether the head stands on this SAM; if not, the segmenter stays as it is.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    head = load_tensors(path)
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get(_SAM) != sam.signature(configured=False):
            return False
    own = network.state_dict()
    for name, tensor in head.items():
        rows = len(own[name]) if name.startswith(CATEGORY_HEADS) else len(tensor)
        own[name].copy_(tensor.expand(rows, *tensor.shape[1:]))
    return True
