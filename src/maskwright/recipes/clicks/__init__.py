"""An agent that places corrective clicks: see ``trainer``, read from ``main`` downwards."""

from maskwright.recipes.clicks.trainer import Config, main

__all__ = ["Config", "main"]
