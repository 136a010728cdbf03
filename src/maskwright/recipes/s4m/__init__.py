"""An instance segmenter from a small labelled share: see ``trainer``, read from ``main`` downwards."""

from maskwright.recipes.s4m.trainer import Config, main

__all__ = ["Config", "main"]
