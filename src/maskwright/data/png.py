"""What a PNG file says of itself, checked before and beside its decoding.

A PNG is a signature and a row of chunks: length, type, data, and the CRC-32 of type and data (W3C PNG, section 5.3). Pillow
checks the CRC of the header but not of the pixels, and a flipped bit in them can decode to other pixels without an error.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

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
