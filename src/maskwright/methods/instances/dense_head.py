"""The head that dense segmenters on the bundled SAM begin with: it knows what objects are, before it has seen one of the user's.

Made by ``tools/pretrain_instance_head.py`` on the image encoder of ``nano`` as it comes, and of use on that alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from maskwright.engine.files import write_tensors
from maskwright.engine.weights import key_problems, load_tensors, raise_weights, require_safetensors
from maskwright.nets.dense_instances import CATEGORY_HEADS, DenseSegmenter
from maskwright.sam.sam import Sam

BUNDLED = Path(__file__).with_name("nano_head.safetensors")
"""Of segmenters on ``nano``."""

_SAM = "sam"


def save_head(network: DenseSegmenter, sam: Sam, path: Path) -> None:
    """Write all but the image encoder of a segmenter of one category, in float16, with the signature of the SAM that it stands on."""
    if network.categories != 2:
        raise ValueError(f"a head knows objects of one category, not of {network.categories - 1}")
    write_tensors(path, {name: tensor.half() for name, tensor in _head_of(network).items()}, {_SAM: _signature(sam)})


@torch.no_grad()
def begin_with_head(network: DenseSegmenter, sam: Sam, path: Path = BUNDLED) -> bool:
    """Let an untrained segmenter on ``sam`` begin with the head of ``path``, each of its categories with what is known of any object.

    Returns:
        Whether the head stands on this SAM; if not, the segmenter stays as it is.

    Raises:
        WeightsError: the file is missing or damaged, or is the head of another network.
    """
    require_safetensors(path)
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get(_SAM) != _signature(sam):
            return False
    head, own = load_tensors(path), _head_of(network)
    problems = key_problems(own, head)
    for name in own.keys() & head.keys():
        rows = 1 if name.startswith(CATEGORY_HEADS) else len(own[name])
        if head[name].shape != (rows, *own[name].shape[1:]):
            problems.append(f"{name}: shape {tuple(head[name].shape)}, and the network has {tuple(own[name].shape)}")
    raise_weights(str(path), problems)
    for name, tensor in own.items():
        tensor.copy_(head[name].expand_as(tensor))
    return True


def _head_of(network: DenseSegmenter) -> dict[str, Tensor]:
    """All but the image encoder."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("trunk.")}


def _signature(sam: Sam) -> str:
    return sam.signature(configured=False)
