"""A frozen SAM that prompts itself: see ``trainer``, read from ``main`` downwards."""

from maskwright.recipes.alignsam.trainer import Config, main

__all__ = ["Config", "main"]
