"""The grid of a dense instance segmenter's maps; apart from the network, so that who only reads maps need not import PyTorch."""

from __future__ import annotations

STRIDE = 2
"""Pixels of the canvas along a cell of the maps."""

MULTIPLE = 32
"""Sides of a canvas are multiples of this."""
