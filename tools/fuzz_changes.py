"""Damage to JSON, XML, text and bytes for ``fuzz_readers``: one to four changes, decided by a random generator."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np

_TEXTS = (
    "",
    " ",
    "0",
    "1",
    "true",
    "a.png",
    "../a.png",
    "/a.png",
    "C:\\a.png",
    "images\\a.png",
    "\0",
    "\x1b[31m",
    "\u202e",
)
_TEXTS += (
    "x" * 300,
    "x" * 5000,
    "\ud800",
    "%00",
    "%2e%2e/a.png",
    "..",
    ".",
    "nan",
    "9" * 4301,
    "a" * 250 + ".png",
    "a\nb",
)
_NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 65536, 2**31, 2**63, 10**40, 10**400, 0.5, 1e300, -1e300, 64.0, -0.0)
_NUMBERS += (math.inf, -math.inf, math.nan, 1e-320)
_OTHERS = (None, True, False, [], {}, [[]], [None], [0], {"": 0}, [[[[]]]], [0] * 1000, {"size": [1, 1], "counts": "1"})


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in parsed JSON."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(document: Any, random: np.random.Generator) -> Any:
    """A copy of parsed JSON with one to three values changed, removed, copied or swapped."""
    document = copy.deepcopy(document)
    for _ in range(random.integers(1, 4)):
        paths = [path for path in places(document) if path]
        if not paths:
            return document
        *parents, key = paths[random.integers(len(paths))]
        node = document
        for step in parents:
            node = node[step]
        change = random.integers(6)
        if change == 0:
            del node[key]
        elif change == 1 and isinstance(node, list):
            node.insert(key, copy.deepcopy(node[random.integers(len(node))]))
        elif change == 2:
            other = paths[random.integers(len(paths))]
            value = document
            for step in other:
                try:
                    value = value[step]
                except (KeyError, IndexError, TypeError):
                    value = None
                    break
            node[key] = copy.deepcopy(value)
        else:
            node[key] = another(node[key], random)
    return document


def another(value: Any, random: np.random.Generator) -> Any:
    """A value like this one and yet wrong, or of another kind."""
    choice = random.integers(4)
    if choice == 0 and isinstance(value, (int, float)) and not isinstance(value, bool):
        factor = [2, -1, 1000, 0.1, 1e6][random.integers(5)]
        return value * (factor if abs(value) < 1e300 else 2)
    if choice == 0 and isinstance(value, str):
        at = random.integers(len(value) + 1)
        return value[:at] + _TEXTS[random.integers(len(_TEXTS))] + value[at:]
    pool = (_TEXTS, _NUMBERS, _OTHERS)[random.integers(3)]
    return copy.deepcopy(pool[random.integers(len(pool))])


def as_text(document: Any, random: np.random.Generator) -> bytes:
    """A document as the bytes of a file; one of ten is damaged as text as well."""
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    if random.integers(10) == 0:
        content = damaged(content, random)
    return content


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes with some flipped, cut off, removed, doubled or put in."""
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        if not data:
            break
        at, length = int(random.integers(len(data))), int(random.integers(1, 20))
        change = random.integers(6)
        if change == 0:
            data[at] ^= 1 << int(random.integers(8))
        elif change == 1:
            del data[at:]
        elif change == 2:
            del data[at : at + length]
        elif change == 3:
            data[at:at] = data[at : at + length]
        elif change == 4:
            data[at : at + length] = random.integers(0, 256, length, np.uint8).tobytes()
        else:
            data[at : at + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"][random.integers(3)]
    return bytes(data)


def mutated_xml(text: str, random: np.random.Generator) -> bytes:
    """XML with one to three elements or attributes changed, removed, copied or moved; one of ten is damaged as text as well."""
    root = ElementTree.fromstring(text)
    for _ in range(random.integers(1, 4)):
        parents = [(parent, child) for parent in root.iter() for child in parent]
        if not parents:
            break
        parent, child = parents[random.integers(len(parents))]
        keys, change = list(child.attrib), random.integers(8)
        if change == 0:
            parent.remove(child)
        elif change == 1:
            parent.append(copy.deepcopy(child))
        elif change == 2:
            child.append(copy.deepcopy(parents[random.integers(len(parents))][1]))
        elif change == 3:
            child.tag = parents[random.integers(len(parents))][1].tag
        elif change == 4:
            child.text = _as_xml(another(child.text or "", random))
        elif keys:
            key = keys[random.integers(len(keys))]
            if change == 5:
                del child.attrib[key]
            else:
                value = child.attrib[key]
                child.attrib[key] = _as_xml(another(float(value) if value.isdecimal() else value, random))
    content = ElementTree.tostring(root, "utf-8")
    return damaged(content, random) if random.integers(10) == 0 else content


def _as_xml(value: Any) -> str:
    """A value as text, without what XML cannot hold: that is tried by damaged bytes."""
    return "".join(c for c in str(value) if c in "\t\n" or " " <= c < "\ud800")


def mutated_text(text: str, random: np.random.Generator) -> bytes:
    """Lines of text with one to three words or lines changed, removed, doubled or moved; one of ten is damaged as bytes as well."""
    lines = [line.split(" ") for line in text.split("\n")]
    for _ in range(random.integers(1, 4)):
        line = lines[random.integers(len(lines))]
        at, change = int(random.integers(len(line))), random.integers(7)
        if change == 0:
            del line[at:]
        elif change == 1:
            line.insert(at, line[random.integers(len(line))] if line else "0")
        elif change == 2:
            lines.insert(int(random.integers(len(lines) + 1)), list(line))
        elif change == 3:
            line[at:] = lines[random.integers(len(lines))]
        elif line:
            word = line[at]
            value: Any = float(word) if word.replace(".", "", 1).isdecimal() else word
            line[at] = str(another(value, random))
        if not any(lines):
            break
        lines = [line or [""] for line in lines]
    content = "\n".join(" ".join(line) for line in lines).encode("utf-8", "surrogatepass")
    return damaged(content, random) if random.integers(10) == 0 else content
