"""A semantic segmenter from any mix of labels: see ``trainer``, read from ``main`` downwards."""

from maskwright.recipes.samix.trainer import Config, main

__all__ = ["Config", "main"]
