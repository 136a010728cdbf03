"""What a PNG file says of itself, checked before and beside its decoding.

A PNG is a signature and a row of chunks: length, type, data, and the CRC-32 of type and data (W3C PNG, section 5.3). Pillow
checks the CRC of the header but not of the pixels, and a flipped bit in them can decode to other pixels without an error. Nor
does it read more than the upper 8 bits of a colour: :func:`deep_colours` reads all 16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEFLATE = 1032  # A deflate stream unpacks to at most this many times its length (zlib, "Maximum Compression Factor").
_PIECE = 1 << 20
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def cannot_hold(header: bytes, length: int) -> bool:
    """Whether a file of ``length`` bytes is too short for the pixels that its first 33 bytes promise."""
    if len(header) < 33 or header[:8] != SIGNATURE or header[12:16] != b"IHDR":
        return False
    width, height, depth, colour = struct.unpack(">IIBB", header[16:26])
    row = width * depth * _CHANNELS.get(colour, 1) // 8 + 1
    return row * height > _DEFLATE * length


def fault(file: BinaryIO) -> str | None:
    """Why the chunks of a PNG file are not those that were written, or None. Reads the file once, in pieces."""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        return "its signature is damaged"
    for name, intact in _chunks(file):
        if not intact:
            return f"the checksum of its part {name.decode('ascii', 'backslashreplace')} is wrong or cut off"
        if name == b"IEND":
            return None
    return "its end is missing"


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """The type of each chunk, and whether it is whole and has the checksum that it says."""
    while len(head := file.read(8)) == 8:
        left, name = int.from_bytes(head[:4]), head[4:]
        checksum = zlib.crc32(name)
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                yield name, False
                return
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        yield name, file.read(4) == checksum.to_bytes(4)


def deep_colours(file: BinaryIO) -> NDArray[np.uint16]:
    """All 16 bits of a PNG of colours, or of grey with alpha: ``(H, W, C)``, C being 2, 3 or 4.

    Pillow has no mode for these, and drops the lower 8 bits. Its decoder is exact, so it decodes twice: the upper bytes, and
    then, told that the lower ones come first, these.

    Raises:
        OSError, SyntaxError, ValueError: a damaged file.
    """
    file.seek(25)
    if file.read(1) == b"\x04":
        return _deep_grey_with_alpha(file)
    pixels: NDArray[np.uint16] | None = None
    for order, shift in (("B", 8), ("L", 0)):
        file.seek(0)
        image = PngImagePlugin.PngImageFile(file)
        image.tile = [tile._replace(args=f"{image.mode};16{order}") for tile in image.tile]
        image.load()
        if pixels is None:
            pixels = np.zeros((image.height, image.width, len(image.getbands())), np.uint16)
        rows = max(1, _PIECE // max(1, image.width))
        for top in range(0, image.height, rows):  # In pieces: an array of a whole image is one more copy of it.
            part = image.crop((0, top, image.width, min(top + rows, image.height)))
            pixels[top : top + part.height] |= np.asarray(part).astype(np.uint16) << shift
        del image
    assert pixels is not None
    return pixels


def _deep_grey_with_alpha(file: BinaryIO) -> NDArray[np.uint16]:
    """Grey and alpha of 16 bits lie as RGBA of 8 bits do, filters included: so another header makes them that."""
    file.seek(0)
    content = bytearray(file.read())
    content[24:26] = bytes([8, 6])
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    image: Any = PngImagePlugin.PngImageFile(BytesIO(content))
    image.load()
    return np.asarray(image).view(">u2").astype(np.uint16)
