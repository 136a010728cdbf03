"""What options let one choose from. Imports nothing heavy, as the help of commands lists it."""

from __future__ import annotations

from typing import Literal

Crowd = Literal["objects", "ignore"]
"""COCO annotations with ``iscrowd``: each an object, or left out."""

Twins = Literal["refuse", "first", "keep"]
"""A picture that several datasets hold: an error, only the first stays, or all stay."""

KindName = Literal["mask", "scribble", "box", "point", "tag"]
"""Kinds of label by name, see ``maskwright.data.labels.Kind``."""
