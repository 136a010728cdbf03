"""Splits by the names that other tools have for them."""

from __future__ import annotations

_NAMES = {"": "train", "default": "train", "training": "train", "valid": "val", "validation": "val", "testing": "test"}
_OURS = ("train", "val", "test")


def split_of(name: str) -> str:
    """The split that a subset's name means: train, val and test in any spelling; any other name as it is."""
    folded = name.strip().casefold()
    return _NAMES.get(folded, folded if folded in _OURS else name.strip())
