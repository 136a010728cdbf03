"""The run-length code of Label Studio's brush, equal to that of ``label-studio-converter`` (``brush.py``).

It is the stream of bits of the JavaScript package ``@thi.ng/rle-pack``: 32 bits say how many words there are, 5 bits their
width less 1, four times 4 bits the widths of run lengths less 1. Then come runs: one bit that says whether one word
is repeated or several follow, two bits that choose the width of the length, the length less 1, and the word or words.

The words are the bytes of the picture's pixels, red, green, blue and opacity, row by row. A pixel is set where its
opacity is at least half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WIDTHS = (3, 4, 8, 16)  # Bits of a run's length, as Label Studio writes them.
_HEAD = (32, 5, 4, 4, 4, 4)  # Bits of the numbers at the beginning.
_HALF = 128


def encode(mask: np.ndarray) -> list[int]:
    """The bytes, 0..255, of a mask ``(H, W)``, where everything but zero is set."""
    flat = np.asarray(mask).astype(bool).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)
    lengths, words = 4 * np.diff(np.append(starts, flat.size)), np.where(flat[starts], 255, 0)
    # A run that is too long for the widest length is several.
    longest = 1 << _WIDTHS[-1]
    pieces = -(-lengths // longest)
    last = np.cumsum(pieces) - 1
    rest = lengths - (pieces - 1) * longest
    lengths, words = np.full(int(pieces.sum()), longest, np.int64), np.repeat(words, pieces)
    lengths[last] = rest
    choice = np.searchsorted(1 << np.array(_WIDTHS), lengths)
    widths = np.array(_WIDTHS)[choice]
    codes = (((1 << 2 | choice) << widths | (lengths - 1)) << 8) | words
    head = np.array([4 * flat.size, 8 - 1, *(width - 1 for width in _WIDTHS)])
    bits = np.concatenate([_bits(head, np.array(_HEAD)), _bits(codes, 3 + widths + 8)])
    # The converter fills the last byte with zeros, and adds one of zeros where it is full.
    return np.packbits(np.pad(bits, (0, 8 - len(bits) % 8))).tolist()


def _bits(values: NDArray[np.integer], widths: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The bits of numbers, each with its own width, the highest first, in one row."""
    ends = np.cumsum(widths)
    right = np.repeat(ends, widths) - 1 - np.arange(ends[-1] if len(ends) else 0)
    return (np.repeat(values, widths) >> right & 1).astype(np.uint8)


def decode(code: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` bool of bytes; ``size`` = (H, W).

    Raises:
        ValueError: values that are no bytes, a stream that is cut short, or one of another number of pixels. Nothing of
            the mask's size is made before its length is known to be right.
    """
    if not all(type(value) is int and 0 <= value <= 255 for value in code):
        raise ValueError("a brush's rle must be a list of whole numbers from 0 to 255")
    stream = _Stream(bytes(code))
    count, word = stream.read(32), stream.read(5) + 1
    widths = [stream.read(4) + 1 for _ in range(4)]
    if count != 4 * size[0] * size[1]:
        raise ValueError(
            f"a brush's rle holds {count:,} values, {size[1]} x {size[0]} pixels have {4 * size[0] * size[1]:,}"
        )
    if word != 8:
        raise ValueError(f"a brush's rle must have words of 8 bits, this has {word}")
    opacity = np.zeros(size[0] * size[1], np.uint8)  # Every fourth word; the others are of no interest.
    done = 0
    while done < count:
        repeated = stream.read(1)
        length = stream.read(widths[stream.read(2)]) + 1
        if done + length > count:
            raise ValueError("a brush's rle holds more values than it says")
        pixels = slice(done // 4, (done + length) // 4)
        opacity[pixels] = stream.read(8) if repeated else stream.words(length)[(3 - done) % 4 :: 4]
        done += length
    return opacity.reshape(size) >= _HALF


class _Stream:
    """Bits from bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def read(self, width: int) -> int:
        """The next number of at most 32 bits."""
        first, self.place = self.place, self.place + width
        if self.place > 8 * len(self.data):
            raise ValueError("a brush's rle is cut short")
        last = (self.place + 7) >> 3
        number = int.from_bytes(self.data[first >> 3 : last], "big")
        return number >> (8 * last - self.place) & ((1 << width) - 1)

    def words(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` bytes, which need not start where a byte does."""
        first, shift = divmod(self.place, 8)
        self.place += 8 * count
        if self.place > 8 * len(self.data):
            raise ValueError("a brush's rle is cut short")
        raw = np.frombuffer(self.data, np.uint8, count + (shift > 0), first).astype(np.uint16)
        return (
            (((raw[:-1] << shift) | (raw[1:] >> (8 - shift))) & 255).astype(np.uint8) if shift else raw.astype(np.uint8)
        )
