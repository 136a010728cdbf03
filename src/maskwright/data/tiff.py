"""The structure of TIFF files, and their tags: pages, samples, depths. Their pixels: ``maskwright.data.tiff_pixels``.

Pillow reads the TIFFs of photographs. Those of microscopes and satellites have pages that it counts with their previews, and
samples that it refuses or cuts to 8 bits. TIFF 6.0 (Adobe, 1992), and BigTIFF, which is the same with wider numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

MOST_PAGES = 1000
"""Pages are counted up to here."""

_MOST_TAGS = 4096
_MOST_VALUES = 4_000_000  # Of one tag: the offsets of the strips of the longest image that is read.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _EXTRA, _SAMPLE_FORMAT = (
    *(317, 322, 323, 324, 325),
    *(338, 339),
)
_REDUCED, _MASK = 1, 4  # Bits of the tag 254: a preview, and a transparency mask, of another page.
_JPEG = (6, 7)
_PREDICTED = (5, 8, 32946, 34925, 50000)  # LZW, Deflate by two numbers, LZMA, Zstandard.
GREY, RGB, PALETTE = (0, 1), 2, 3


@dataclass(frozen=True)
class Page:
    """What the tags of one page say.

    Attributes:
        place: among all pages, previews included, from 0.
        order: of the bytes of numbers, ``<`` or ``>``.
        big: BigTIFF.
        kind: of the samples: ``u`` and ``i`` integers, ``f`` floats; ``?`` for others.
        bits: of each sample.
        extra: what the samples beyond the colours are: 0 nothing known, 1 premultiplied alpha, 2 alpha.
        planar: whether each sample lies by itself.
        piece: (width, height) of a strip or tile.
        offsets, lengths: of the pieces in the file.
    """

    place: int
    order: Literal["<", ">"]
    big: bool
    width: int
    height: int
    samples: int
    bits: tuple[int, ...]
    kind: str
    photometric: int
    extra: tuple[int, ...]
    compression: int
    predictor: int
    fill_order: int
    planar: bool
    orientation: int
    piece: tuple[int, int]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def alpha(self) -> Literal["", "straight", "premultiplied"]:
        """Of the last sample, where the others are grey or RGB."""
        colours = 3 if self.photometric == RGB else 1
        if self.samples != colours + 1 or len(self.extra) != 1:
            return ""
        return "premultiplied" if self.extra[0] == 1 else "straight" if self.extra[0] == 2 else ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as displayed."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow reads all of its samples in full."""
        if self.compression in _JPEG or self.photometric == PALETTE:
            return True
        if self.big and self.order == ">" and self.bits[0] >= 8 and self.photometric in (1, RGB):
            return False  # Pillow 13 does not.
        if self.samples == 1:
            known = {"u": (1, 2, 4, 8, 12, 16), "i": (16, 32), "f": (32,)}
            return self.bits[0] in known.get(self.kind, ()) or self.bits[0] not in (8, 16, 32, 64)
        if set(self.bits) != {8} or self.kind != "u":
            return False
        if self.photometric in (*GREY, RGB):
            return self.samples == 3 if self.photometric == RGB and not self.extra else bool(self.alpha)
        return True  # CMYK, YCbCr, Lab


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is a TIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_pages(file: BinaryIO, length: int) -> list[Page]:
    """The pages of a TIFF of ``length`` bytes, without previews and transparency masks of others.

    Pages behind damage are left out, as are those that say nothing that makes sense: where it is the first, there are none.
    """
    pages: list[Page] = []
    try:
        for place, (order, big, tags) in enumerate(_directories(file, length)):
            if place and tags.get(_SUBFILE, (0,))[0] & (_REDUCED | _MASK):
                continue
            pages.append(_page(place, order, big, tags))
            if len(pages) == MOST_PAGES:
                break
    except (ValueError, struct.error, OverflowError, IndexError, OSError):
        return pages
    return pages


def first_tags(file: BinaryIO) -> set[int]:
    """The numbers of the tags of the first page of a TIFF, those without whole numbers too; empty where it is damaged."""
    try:
        file.seek(0)
        start = file.read(16)
        order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
        (at,) = struct.unpack(order + ("Q" if big else "I"), start[8:16] if big else start[4:8])
        head, entry = (8, 20) if big else (2, 12)
        file.seek(at)
        (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(head))
        rows = file.read(min(count, _MOST_TAGS) * entry)
        return {struct.unpack_from(order + "H", rows, place)[0] for place in range(0, len(rows) - 1, entry)}
    except (struct.error, OSError, ValueError, OverflowError):
        return set()


def _directories(file: BinaryIO, length: int) -> Iterator[tuple[Literal["<", ">"], bool, dict[int, tuple[int, ...]]]]:
    """Order of bytes, whether it is a BigTIFF, and the integer tags of each page, as they are linked."""
    file.seek(0)
    start = file.read(16)
    order: Literal["<", ">"] = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    if big and struct.unpack(order + "HH", start[4:8]) != (8, 0):
        raise ValueError("a BigTIFF with pointers of another size")
    (at,) = struct.unpack(order + ("Q" if big else "I"), start[8:16] if big else start[4:8])
    seen: set[int] = set()
    while at and at not in seen and len(seen) < 4 * MOST_PAGES:
        seen.add(at)
        tags, at = _directory(file, length, at, order, big)
        yield order, big, tags


def _directory(file: BinaryIO, length: int, at: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    head, entry, inline, pointer = (8, 20, 8, "Q") if big else (2, 12, 4, "I")
    file.seek(at)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(head))
    if count > _MOST_TAGS:
        raise ValueError("far too many tags")
    rows = file.read(count * entry)
    (following,) = struct.unpack(order + pointer, file.read(inline))
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(count):
        row = rows[i * entry : (i + 1) * entry]
        tag, kind, values = struct.unpack(order + "HH" + pointer, row[: 4 + inline])
        size = _SIZES.get(kind, 0) * values
        if kind not in _CODES or tag in tags:
            continue
        if values > _MOST_VALUES or size > length:
            raise ValueError("a tag that is larger than the file")
        data = row[4 + inline :][:size]
        if size > inline:
            (place,) = struct.unpack(order + pointer, row[4 + inline :])
            file.seek(place)
            data = file.read(size)
        tags[tag] = struct.unpack(f"{order}{values}{_CODES[kind]}", data)
    return tags, following


def _page(place: int, order: Literal["<", ">"], big: bool, tags: dict[int, tuple[int, ...]]) -> Page:
    def one(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    width, height, samples = one(_WIDTH, 0), one(_HEIGHT, 0), one(_SAMPLES, 1)
    if width < 1 or height < 1 or not 1 <= samples <= 65535:
        raise ValueError("no size")
    bits = tags.get(_BITS, (1,))
    formats = {
        "u" if v in (1, 4) else "i" if v == 2 else "f" if v == 3 else "?" for v in tags.get(_SAMPLE_FORMAT, (1,))
    }
    tiled = _TILE_WIDTH in tags
    return Page(
        place,
        order,
        big,
        width,
        height,
        samples,
        bits * samples if len(bits) == 1 else bits,
        formats.pop() if len(formats) == 1 else "?",
        one(_PHOTOMETRIC, -1),
        tags.get(_EXTRA, ()),
        one(_COMPRESSION, 1),
        # Only these compressions have one (TIFF 6.0, section 14, and libtiff).
        one(_PREDICTOR, 1) if one(_COMPRESSION, 1) in _PREDICTED else 1,
        one(_FILL_ORDER, 1),
        one(_PLANAR, 1) == 2,
        orientation if 1 <= (orientation := one(_ORIENTATION, 1)) <= 8 else 1,
        (one(_TILE_WIDTH, 0), one(_TILE_HEIGHT, 0)) if tiled else (width, min(height, one(_ROWS, height) or height)),
        tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, ()) or tags.get(_STRIP_OFFSETS, ()),
        tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ()) or tags.get(_STRIP_BYTES, ()),
    )
