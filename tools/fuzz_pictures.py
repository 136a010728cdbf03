"""A small image file of each kind that is read, for ``fuzz_readers`` to damage."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from fuzz_datasets import SIZE


def pictures() -> dict[str, bytes]:
    """A small file of each kind that is read: name with suffix → content."""
    random = np.random.default_rng(1)
    colours = Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))
    grey = colours.convert("L")
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (colours, {}),
        "rgba.png": (colours.convert("RGBA"), {}),
        "grey.png": (grey, {}),
        "palette.png": (colours.quantize(16), {}),
        "bits.png": (colours.convert("1"), {}),
        "deep.png": (Image.fromarray(random.integers(0, 65536, SIZE[::-1], np.uint16)), {}),
        "animated.png": (colours, {"save_all": True, "append_images": [colours.rotate(90)]}),
        "rgb.jpg": (colours, {}),
        "progressive.jpg": (colours, {"progressive": True}),
        "rgb.tif": (colours, {}),
        "deflate.tif": (grey, {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": (colours, {"compression": "tiff_lzw"}),
        "deep.tif": (Image.fromarray(random.integers(0, 65536, SIZE[::-1], np.uint16)), {}),
        "float.tif": (Image.fromarray(random.random(SIZE[::-1], np.float32)), {}),
        "pages.tif": (grey, {"save_all": True, "append_images": [grey, grey]}),
        "rgb.bmp": (colours, {}),
        "palette.gif": (colours.quantize(16), {}),
        "lossless.webp": (colours, {"lossless": True}),
        "rgb.webp": (colours, {}),
        "rgb.ppm": (colours, {}),
        "rgb.jp2": (colours, {}),
        "rgb.avif": (colours, {}),
    }
    files = {}
    for name, (image, options) in kinds.items():
        buffer = io.BytesIO()
        try:
            image.save(
                buffer,
                {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(name[-3:], name.rpartition(".")[2]),
                **options,
            )
        except (OSError, KeyError, ValueError):
            continue  # This Pillow cannot write the format.
        files[name] = buffer.getvalue()
    return files | deep_pictures(random)


def deep_pictures(random: np.random.Generator) -> dict[str, bytes]:
    """What Pillow does not write: several channels of 16 bits and of floats, and more than four."""
    files = {}
    for name, channels in (("deep-grey-alpha.png", 2), ("deep-rgb.png", 3), ("deep-rgba.png", 4)):
        pixels = random.integers(0, 65536, (SIZE[1], SIZE[0], channels), np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        head = struct.pack(">IIBBBBB", *SIZE, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        files[name] = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )
    for name, channels, kind, options in (
        ("deep-rgb.tif", 3, "<u2", {}),
        ("deep-rgba.tif", 4, "<u2", {338: [2]}),
        ("float-rgb.tif", 3, "<f4", {}),
        ("double.tif", 1, "<f8", {}),
        ("five-channels.tif", 5, "<u1", {338: [0, 0]}),
        ("five-planes.tif", 5, "<u2", {284: 2, 338: [0, 0]}),
        ("predicted.tif", 3, "<u2", {259: 8, 317: 2}),
        ("predicted-floats.tif", 3, "<f4", {259: 8, 317: 3}),
        ("tiles.tif", 3, "<u2", {322: 16, 323: 16}),
    ):
        pixels = (100 * random.random((SIZE[1], SIZE[0], channels))).astype(kind)
        files[name] = tiff(pixels, options)
    return files


def tiff(pixels: np.ndarray, options: dict[int, Any]) -> bytes:
    """One page in one or two strips, or a tile; tags of ``options`` beside those that are needed."""
    height, width, channels = pixels.shape
    planes = np.split(pixels, channels, axis=2) if options.get(284) == 2 else [pixels]
    if 322 in options:
        planes = [np.pad(plane, ((0, 16 - height), (0, 16 - width), (0, 0))) for plane in planes]
        parts = [plane.tobytes() for plane in planes]
    else:
        parts = [plane[top : top + 8].tobytes() for plane in planes for top in (0, 8)]
    parts = [zlib.compress(part) for part in parts] if options.get(259) == 8 else parts
    places = np.cumsum([8, *map(len, parts)])[:-1].tolist()
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags: dict[int, Any] = {256: width, 257: height, 258: [8 * pixels.dtype.itemsize] * channels, 259: 1}
    tags |= {262: 2 if channels > 2 else 1, 277: channels, 284: 1, 339: [kind] * channels}
    where = (324, 325) if 322 in options else (273, 279)
    tags |= {where[0]: places, where[1]: [len(part) for part in parts], **({} if 322 in options else {278: 8})}
    tags |= options
    body = b"".join(parts)
    at = 8 + len(body)
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, list) else [value]
        content = struct.pack(f"<{len(numbers)}I", *numbers)
        place = struct.pack("<I", at + 2 + 12 * len(tags) + 4 + len(values))
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + (content if len(content) == 4 else place)
        values += content if len(content) > 4 else b""
    return b"II*\0" + struct.pack("<I", at) + body + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + values
