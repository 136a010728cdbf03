"""Image files that are damaged and yet whole: every pixel is there, and only what stands around them is broken.

A wrong checksum of a chunk, a missing end marker, a cut-off trailer. Strict readers refuse such files, rightly, as they
cannot know; here it is found out, by checksums of the pixels themselves.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.image_files import MAX_PIXELS

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MOST_BYTES = 1 << 30
_KEPT = (b"PLTE", b"tRNS", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs")
_WITHOUT_EFFECT = (b"IDAT", b"IEND", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"bKGD", b"hIST")
"""Parts of a PNG that may be damaged: they do not change the pixels, or are checked in another way."""

_SEQUENTIAL = (0xC0, 0xC1)  # The frames of a JPEG whose pixels all come in one pass.
_ANY_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_whole(path: str | Path) -> bool:
    """Whether :func:`salvaged` would give back a damaged file's pixels."""
    return salvaged(path) is not None


def salvaged(path: str | Path) -> bytes | None:
    """A sound image file with exactly the pixels of a damaged one, of the same format.

    PNG: written anew chunk by chunk, where the compressed pixels are complete and their own checksum (Adler-32) holds.
    JPEG: with its end marker put back, where all pixels come before the cut: they are the same whatever follows. Not where
    they come in several passes, as of a pass that is missing altogether nothing shows.

    Returns:
        The content of the new file; None where nothing is damaged, where pixels are lost, or where nothing is known of the
        format.
    """
    path = Path(path)
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    if content.startswith(_PNG):
        return _png(content)
    return _jpeg(content) if content.startswith(b"\xff\xd8") else None


def _png(content: bytes) -> bytes | None:
    chunks = _chunks(content)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or not chunks[0][2]:
        return None  # What the size and the depth were is a guess where the header's own checksum fails.
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if interlaced or colour not in _CHANNELS or not 0 < width * height <= MAX_PIXELS:
        return None
    if chunks[-1][0] == b"IEND" and all(sound for _, _, sound in chunks):
        return None  # Nothing is damaged: if it is not read, that is for another reason.
    # A part whose name is damaged may have been the palette, or what is transparent.
    if any(not sound and name not in _WITHOUT_EFFECT for name, _, sound in chunks):
        return None
    if colour == 3 and not any(name == b"PLTE" for name, _, _ in chunks):
        return None
    expected = height * (1 + (width * depth * _CHANNELS[colour] + 7) // 8)
    if expected > _MOST_BYTES:
        return None
    decoder = zlib.decompressobj()
    try:
        pixels = decoder.decompress(b"".join(data for name, data, _ in chunks if name == b"IDAT"), expected + 1)
    except zlib.error:
        return None
    # The end of the stream is reached only where its checksum of all pixels holds.
    if not decoder.eof or len(pixels) != expected:
        return None
    kept = [(name, data) for name, data, sound in chunks if sound and name in _KEPT]
    parts = [(b"IHDR", chunks[0][1]), *kept, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return _PNG + b"".join(_chunk(name, data) for name, data in parts)


def _chunks(content: bytes) -> list[tuple[bytes, bytes, bool]]:
    """Name, data and whether the checksum holds, of each chunk that is there in full."""
    chunks, at = [], len(_PNG)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        name, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if len(data) < length:
            break
        found = content[at + 8 + length : at + 12 + length]
        chunks.append((name, data, found == struct.pack(">I", zlib.crc32(name + data))))
        at += 12 + length
    return chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _jpeg(content: bytes) -> bytes | None:
    if not _in_one_pass(content) or _decoded(content) is not None:
        return None
    whole = content + b"\xff\xd9"
    # What follows the last pixel is skipped. Where bits are missing, others are read in their place, and show.
    seen = (_decoded(content + bytes([17 * first]) * 64 + b"\xff\xd9") for first in range(15))
    right = _decoded(whole)
    if right is None or any(other is None or not np.array_equal(right, other) for other in seen):
        return None
    return whole


def _in_one_pass(content: bytes) -> bool:
    """Whether a JPEG has one scan with all of its components, which no other follows."""
    at, components = 2, 0
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, (length,) = content[at + 1], struct.unpack_from(">H", content, at + 2)
        if marker in _ANY_FRAME:
            if marker not in _SEQUENTIAL or at + 10 > len(content):
                return False
            components = content[at + 9]
        elif marker == 0xDA:
            return at + 5 <= len(content) and bool(components) and content[at + 4] == components
        at += 2 + length
    return False


def _decoded(content: bytes) -> np.ndarray | None:
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
