"""Image encoders that SAM 2 can stand on. What a method has to know of one it asks here (:class:`Trunk`), never its type.

To add a trunk: a file beside this one with its configuration and its network, an entry in ``_REGISTERED``, and what
:class:`Trunk` asks in :func:`trunk_of`.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

from maskwright.sam.trunks.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from maskwright.sam.trunks.hiera import HieraTrunk
from maskwright.sam.trunks.trunk import Block, Trunk

__all__ = ["TRUNK_TYPES", "Block", "Trunk", "trunk_of"]

_REGISTERED = {EfficientNetLiteConfig: EfficientNetLiteModel}
for _config, _model in _REGISTERED.items():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)

TRUNK_TYPES = ("sam2_hiera_det_model", *(config.model_type for config in _REGISTERED))
"""Model types of the trunks, as configurations name them."""


def trunk_of(backbone: Any) -> Trunk:
    """The trunk that a ``Sam2VisionModel`` has as its ``backbone``. Raises TypeError for one that is not among ``TRUNK_TYPES``."""
    if isinstance(backbone, EfficientNetLiteModel):
        return backbone
    if isinstance(backbone, Sam2HieraDetModel):
        return HieraTrunk(backbone)
    raise TypeError(f"{type(backbone).__name__} is no trunk of a SAM 2; these are: {', '.join(TRUNK_TYPES)}")
