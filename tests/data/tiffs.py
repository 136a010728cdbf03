"""A writer of TIFFs for tests, after TIFF 6.0: any samples, depths, layouts, pages. It shares nothing with what reads them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

KINDS = {"u": 1, "i": 2, "f": 3}
DEFLATE = 8


def tiff(
    *pages: np.ndarray,
    order: Literal["<", ">"] = "<",
    planar: bool = False,
    deflate: bool = False,
    predictor: int = 1,
    tile: tuple[int, int] | None = None,
    rows: int = 5,
    photometric: int | None = None,
    extra: tuple[int, ...] | None = None,
    big: bool = False,
    subfiles: tuple[int, ...] = (),
    tags: dict[int, Any] | None = None,
) -> bytes:
    """Arrays ``(H, W, C)`` as the pages of a TIFF.

    Args:
        tile: (width, height); strips of ``rows`` rows where left out.
        photometric: 2 (RGB) of three channels and more, else 1, where left out.
        extra: what channels beyond the colours are; 0 for each where left out.
        subfiles: the tag 254 of each page.
        tags: further ones of each page, or others instead.
    """
    data = bytearray()
    head = order_mark(order) + struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 0) if big else (42, 0)))
    data += head
    link = 8 if big else 4
    for number, pixels in enumerate(pages):
        height, width, samples = pixels.shape
        parts = pieces(pixels, order, planar, predictor, tile, rows)
        places = []
        for part in parts:
            content = zlib.compress(part) if deflate else part
            places.append((len(data), len(content)))
            data += content + b"\0" * (len(content) % 2)
        colours = photometric if photometric is not None else 2 if samples >= 3 else 1
        beyond = samples - (3 if colours == 2 else 1)
        said: dict[int, Any] = {
            **({254: subfiles[number]} if subfiles else {}),
            256: width,
            257: height,
            258: [8 * pixels.dtype.itemsize] * samples,
            259: DEFLATE if deflate else 1,
            262: colours,
            277: samples,
            284: 2 if planar else 1,
            317: predictor,
            339: [KINDS[pixels.dtype.kind]] * samples,
        }
        if beyond > 0:
            said[338] = list(extra) if extra is not None else [0] * beyond
        offsets, lengths = [list(column) for column in zip(*places)]
        said |= (
            {322: tile[0], 323: tile[1], 324: offsets, 325: lengths}
            if tile
            else {273: offsets, 278: rows, 279: lengths}
        )
        said |= tags or {}
        at = len(data)
        data[link : link + (8 if big else 4)] = struct.pack(order + ("Q" if big else "I"), at)
        data += directory(said, at, order, big)
        link = len(data) - (8 if big else 4) - spilled(said, big)
    return bytes(data)


def order_mark(order: str) -> bytes:
    return b"II" if order == "<" else b"MM"


def spilled(said: dict[int, Any], big: bool) -> int:
    """Bytes of the values that do not fit into their entries, which lie behind the directory."""
    inline = 8 if big else 4
    return sum(4 * len(v) for v in said.values() if isinstance(v, list) and 4 * len(v) > inline)


def directory(said: dict[int, Any], at: int, order: str, big: bool) -> bytes:
    """All values as integers of 4 bytes (LONG)."""
    inline, entry, head = (8, 20, 8) if big else (4, 12, 2)
    behind = at + head + entry * len(said) + (8 if big else 4)
    rows, values = b"", b""
    for tag, value in sorted(said.items()):
        numbers = value if isinstance(value, list) else [value]
        content = struct.pack(f"{order}{len(numbers)}I", *numbers)
        rows += struct.pack(order + ("HHQ" if big else "HHI"), tag, 4, len(numbers))
        if len(content) <= inline:
            rows += content.ljust(inline, b"\0")
        else:
            rows += struct.pack(order + ("Q" if big else "I"), behind + len(values))
            values += content
    return struct.pack(order + ("Q" if big else "H"), len(said)) + rows + b"\0" * (8 if big else 4) + values


def pieces(
    pixels: np.ndarray, order: str, planar: bool, predictor: int, tile: tuple[int, int] | None, rows: int
) -> list[bytes]:
    height, width, samples = pixels.shape
    parts = []
    for plane in np.split(pixels, samples, axis=2) if planar else [pixels]:
        wide, high = tile or (width, rows)
        for top in range(0, height, high):
            for left in range(0, width, wide):
                part = plane[top : top + high, left : left + wide]
                if tile:
                    lacking = ((0, high - part.shape[0]), (0, wide - part.shape[1]), (0, 0))
                    part = np.pad(part, lacking)
                parts.append(predicted(part, order, predictor))
    return parts


def predicted(part: np.ndarray, order: str, predictor: int) -> bytes:
    """Differences to the pixel on the left (2); or of bytes, sorted by weight, the highest first (3)."""
    if predictor == 3:
        highest_first = part.astype(part.dtype.newbyteorder(">"))
        raw = np.frombuffer(highest_first.tobytes(), np.uint8).reshape(part.shape[0], -1, part.dtype.itemsize)
        flat = raw.transpose(0, 2, 1).reshape(part.shape[0], -1).astype(int)
        step = part.shape[2]
        flat[:, step:] -= flat[:, :-step].copy()
        return (flat % 256).astype(np.uint8).tobytes()
    if predictor == 2:
        whole = part.view(f"u{part.dtype.itemsize}").copy()
        whole[:, 1:] -= whole[:, :-1].copy()
        part = whole
    return part.astype(part.dtype.newbyteorder(order)).tobytes()


def write_tiff(path: Path, *pages: np.ndarray, **options: Any) -> Path:
    """The same as a file; arrays ``(H, W)`` have one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiff(*(page if page.ndim == 3 else page[:, :, None] for page in pages), **options))
    return path
