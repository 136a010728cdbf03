"""Pixels of TIFF pages that Pillow does not read, or not in full: several samples, of 16 bits and more, of floats.

Strips or tiles, contiguous or planar, of 8 to 64 bits; without compression, or with Deflate, LZW, PackBits, LZMA or
Zstandard; with both predictors. Only the channels that are asked for are kept.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from maskwright.data.image_files import without_pillows_limit
from maskwright.data.tiff import Page

MOST_BYTES = 1_200_000_000
"""An image of more bytes than this, in the channels that have to be decoded, is refused: 200 million pixels of 16-bit RGB."""

_MOST_PIECES = 100_000  # Each costs a call of a decoder.
_AT_ONCE = 1 << 24  # Bytes of whole rows.
_FED = 1 << 16  # Compressed bytes.
_MOST_UNPACKED = 400_000_000  # Of one strip or tile that is unpacked as a whole.
_PLAIN, _LZW, _DEFLATE, _PACK_BITS, _LZMA, _ZSTD = 1, 5, (8, 32946), 32773, 34925, 50000
_BY_LIBTIFF = {_LZW: "LZW", _PACK_BITS: "PackBits", _LZMA: "LZMA", _ZSTD: "Zstandard"}
_DIFFERENCES, _FLOATS = 2, 3
_TYPES = {("u", 8), ("u", 16), ("u", 32), ("u", 64), ("i", 8), ("i", 16), ("i", 32), ("i", 64), ("f", 16), ("f", 32)}
_TYPES |= {("f", 64)}


class NotReadError(ValueError):
    """A kind of TIFF that is not read; the text says which, and what to do."""


def decode(file: BinaryIO, page: Page, channels: tuple[int, ...]) -> NDArray[Any]:
    """The samples ``channels`` of a page, as they are stored: ``(height, width, len(channels))``, not yet turned.

    Integers keep their type. Floats of 16 bits become float32, and integers of 64 bits float64.

    Raises:
        NotReadError: a kind that is not read.
        ValueError, zlib.error, OSError: a damaged file.
    """
    _refuse(page, channels)
    kept = np.dtype(f"{page.kind}{page.bits[0] // 8}")
    out = np.zeros((page.height, page.width, len(channels)), kept)
    for top, left, chosen, data in _pieces(file, page, channels):
        width = min(data.shape[1], page.width - left)
        out[top : top + len(data), left : left + width, chosen] = data[:, :width]
    wider = {"f2": np.float32, "u8": np.float64, "i8": np.float64}.get(kept.str[1:])
    return out if wider is None else out.astype(wider)


def _refuse(page: Page, channels: tuple[int, ...]) -> None:
    """Raise NotReadError for what is not read, before memory is taken."""
    if len(set(page.bits)) != 1 or len(page.bits) != page.samples or (page.kind, page.bits[0]) not in _TYPES:
        depths = ", ".join(map(str, sorted(set(page.bits))))
        raise NotReadError(f"samples of {depths} bits of this type are not read; save it with 8 or 16 bits or float32")
    if page.compression not in (_PLAIN, *_DEFLATE, *_BY_LIBTIFF):
        remedy = "save it without compression, or with Deflate"
        raise NotReadError(f"compression {page.compression} with samples of this kind is not read; {remedy}")
    if page.predictor not in (1, _DIFFERENCES, _FLOATS) or (page.predictor == _FLOATS and page.kind != "f"):
        raise NotReadError(f"predictor {page.predictor} is not read; save it without a predictor")
    if page.fill_order != 1 and page.compression not in _BY_LIBTIFF:
        raise NotReadError("bits from the lowest on (fill order 2) are not read; save it with fill order 1")
    size = page.bits[0] // 8
    decoded = page.width * page.height * size * (len(channels) if page.planar else page.samples)
    kept = page.width * page.height * len(channels) * (4 if (page.kind, size) == ("f", 2) else size)
    if max(decoded, kept) > MOST_BYTES:
        what = f"{page.width} x {page.height} pixels of {page.samples} samples of {page.bits[0]} bits"
        raise NotReadError(f"{what} take more than the {MOST_BYTES:,} bytes that are decoded; cut it into tiles")
    across, down = (-(-side // max(1, step)) for side, step in zip((page.width, page.height), page.piece))
    if across * down > _MOST_PIECES or min(page.piece) < 1:
        raise NotReadError(f"{across * down:,} strips or tiles are not read; save it with larger ones")
    whole = page.piece[0] * min(page.piece[1], page.height) * size * (1 if page.planar else page.samples)
    if page.compression in _BY_LIBTIFF and whole > _MOST_UNPACKED:
        raise NotReadError(
            f"a strip or tile of {whole:,} bytes is not read; save it with smaller ones, or with Deflate"
        )
    if page.piece[0] * min(page.piece[1], page.height) > 4 * max(page.width * page.height, 1 << 20):
        raise ValueError("tiles that are much larger than the image")


def _pieces(
    file: BinaryIO, page: Page, channels: tuple[int, ...]
) -> Iterator[tuple[int, int, slice | list[int], NDArray[Any]]]:
    """Rows of each strip or tile: row and column of the first sample, which of the channels they are, and ``(h, w, c)``."""
    wide, high = page.piece
    across, down = -(-page.width // wide), -(-page.height // high)
    planes = page.samples if page.planar else 1
    if min(len(page.offsets), len(page.lengths)) < across * down * planes:
        raise ValueError("strips or tiles are missing")
    samples = 1 if page.planar else page.samples
    row = wide * samples * page.bits[0] // 8
    for place, plane in enumerate(channels if page.planar else (0,)):
        for number in range(across * down):
            top, left = number // across * high, number % across * wide
            rows = min(high, page.height - top)
            take = _unpacked(file, page, number + plane * across * down, rows, row)
            step = max(1, _AT_ONCE // row)
            for first in range(0, rows, step):
                count = min(step, rows - first)
                data = _values(take(count * row), page, (count, wide, samples))
                chosen: slice | list[int] = [place] if page.planar else slice(None)
                if not page.planar and channels != tuple(range(samples)):
                    data = data[:, :, list(channels)]
                yield top + first, left, chosen, data
            if page.compression in _DEFLATE:
                take(1)  # What was asked for is there; one byte more, and the checksum at the end is compared.


def _unpacked(file: BinaryIO, page: Page, number: int, rows: int, row: int) -> Callable[[int], bytes]:
    """What gives the next so many bytes of one strip or tile, of ``rows`` rows of ``row`` bytes."""
    file.seek(page.offsets[number])
    if page.compression == _PLAIN:
        return file.read
    # What is compressed may be longer than what it holds, but not by much.
    content = file.read(min(page.lengths[number], 2 * rows * row + 4096))
    if page.compression not in _DEFLATE:
        return BytesIO(_by_libtiff(content, page, rows, row)).read
    decoder = zlib.decompressobj()
    left = memoryview(content)

    def take(count: int) -> bytes:
        """The next bytes. A little is given to the decoder at once, as it copies what it does not need yet."""
        nonlocal left
        parts, missing = [], count
        while missing and not decoder.eof:
            piece = decoder.unconsumed_tail or left[:_FED]
            if not decoder.unconsumed_tail:
                left = left[_FED:]
            parts.append(decoder.decompress(piece, missing))
            missing -= len(parts[-1])
            if not piece and not parts[-1]:  # It may still hold some where all is given.
                break
        return b"".join(parts)

    return take


def _values(content: bytes, page: Page, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Unpacked bytes as samples, with the predictor undone."""
    size = page.bits[0] // 8
    if len(content) < math.prod(shape) * size:
        raise ValueError("a strip or tile is cut off")
    kind = np.dtype(f"{page.order}{page.kind}{size}")
    if page.predictor == _FLOATS:
        return _undo_float_predictor(content, shape, kind)
    values = np.frombuffer(content, kind, math.prod(shape)).reshape(shape).astype(kind.newbyteorder("="))
    if page.predictor == _DIFFERENCES:
        whole = values.view(f"u{size}")  # Sums wrap around.
        np.cumsum(whole, axis=1, dtype=whole.dtype, out=whole)
    return values


def _undo_float_predictor(content: bytes, shape: tuple[int, int, int], kind: np.dtype[Any]) -> NDArray[Any]:
    """Adobe Photoshop TIFF Technical Note 3: differences of bytes, those of equal weight together, the highest first."""
    rows, wide, samples = shape
    data = np.frombuffer(content, np.uint8).reshape(rows, wide * kind.itemsize, samples)
    data = np.cumsum(data, axis=1, dtype=np.uint8)
    data = data.reshape(rows, kind.itemsize, wide * samples).transpose(0, 2, 1)
    return np.ascontiguousarray(data).view(kind.newbyteorder(">")).reshape(shape).astype(kind.newbyteorder("="))


def _by_libtiff(content: bytes, page: Page, rows: int, row: int) -> bytes:
    """Unpack bytes with the decoder that Pillow brings: they become the one strip of a grey image of 8 bits."""
    tags = {256: row, 257: rows, 258: 8, 259: page.compression, 262: 1, 266: page.fill_order}
    tags |= {273: 8 + 2 + 10 * 12 + 4, 277: 1, 278: rows, 279: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + content
    image = TiffImagePlugin.TiffImageFile(BytesIO(file))
    with without_pillows_limit(image):
        return image.tobytes()
