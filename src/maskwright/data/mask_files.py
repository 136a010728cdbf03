"""Masks in files: what was written is what is read, or it is refused."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data import cache, png
from maskwright.data.files import write_atomic
from maskwright.data.image_files import DAMAGE, load, opened, pages_of, raw_modes
from maskwright.errors import DataError
from maskwright.problems import Problem

_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats of masks: what was written is what is read."""


def read_mask(path: str | Path) -> np.ndarray:
    """The label values of a mask file as ``(H, W)``: uint8, or uint16 where it has more bits; a palette gives its indices.

    Read are formats that keep the values: PNG, TIFF, BMP, GIF, PPM; with one channel, or with equal ones (R = G = B, and
    opaque wherever a pixel is not 0).

    Raises:
        DataError: missing, unreadable or truncated, a format that may change the values (the record says that ``data fix``
            mends it), colours instead of one channel, values that are not whole or outside 0..65535, several pages, or
            more than ``MAX_PIXELS`` pixels.
    """
    path = Path(path)
    with opened(path) as image:
        if image.format not in _LOSSLESS:
            what = f"a mask must be a PNG or TIFF, this is {image.format}, which changes values"
            remedy = "save it as PNG with one channel of ids"
            raise DataError([Problem(what, kind="lossy-mask", file=path, remedy=remedy, fix="")])
        if image.format == "TIFF" and pages_of(image) > 1:
            raise DataError([f"{path}: a mask has one page, this has several; save the right one alone"])
        raw_mode = raw_modes(image)
        if any("16" in mode and not mode.startswith(("I", "L;16")) for mode in raw_mode):
            raise DataError([f"{path}: a mask must have one channel of ids, this has colours of 16 bits; save it so"])
        load(image, path)
        return _mask_values(image, raw_mode[0] if raw_mode else "", path)


def _mask_values(image: Image.Image, raw_mode: str, path: Path) -> np.ndarray:
    values = np.array(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "L":
        # Pillow stretches 2- and 4-bit grey to 0..255; the file's own values are the labels.
        return values // 85 if raw_mode.startswith("L;2") else values // 17 if raw_mode.startswith("L;4") else values
    if image.mode == "P":
        return values
    if image.mode.startswith("I") or image.mode == "F":
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise DataError([f"{path}: mask values must lie in 0..65535; renumber the ids"])
        whole = values.astype(np.uint16)
        if image.mode == "F" and (whole != values).any():
            raise DataError([f"{path}: mask values must be whole numbers; save it with integers"])
        return whole
    if image.mode in ("RGB", "RGBA", "LA"):
        return _one_channel(values, image.mode, path)
    remedy = "replace every colour by its category id"
    raise DataError([f"{path}: a mask must have one channel of ids, this has mode {image.mode}; {remedy}"])


def _one_channel(values: np.ndarray, mode: str, path: Path) -> np.ndarray:
    """The values of a mask whose colours are greys, which all its channels then say."""
    grey = values[..., 0]
    if mode != "LA" and not all(np.array_equal(grey, values[..., channel]) for channel in (1, 2)):
        remedy = "replace every colour by its category id"
        raise DataError([f"{path}: a mask must have one channel of ids, this has mode {mode} with colours; {remedy}"])
    if mode != "RGB":
        clear = values[..., -1] != 255
        if (grey[clear] != 0).any() or (clear.any() and not grey.any()):
            remedy = "save it with one channel of ids"
            raise DataError([f"{path}: a mask must be opaque, and this is transparent where it matters; {remedy}"])
    return np.ascontiguousarray(grey)


def decode_mask(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """The mask ``(H, W)`` bool of a PNG that another file holds; whatever is not 0 is set.

    Args:
        size: (H, W), as stated elsewhere; memory for the pixels is taken where it is that of the PNG only.

    Raises:
        ValueError: no PNG, a damaged one, one with colours, or one of another size.
    """
    file = io.BytesIO(content)
    if content[:8] != png.SIGNATURE:
        raise ValueError("its mask is no PNG")
    if png.cannot_hold(content[:33], len(content)) or png.fault(file):
        raise ValueError("the PNG of its mask is damaged")
    file.seek(0)
    # Compared before Pillow sees it: the header comes first, and its checksum is right.
    found = struct.unpack(">II", content[16:24])
    if found != size[::-1]:
        raise ValueError(f"its mask has {found[0]} x {found[1]} pixels, its points say {size[1]} x {size[0]}")
    try:
        with Image.open(file, formats=["PNG"]) as image:
            values = np.array(image)
    except (*DAMAGE, Image.DecompressionBombError):
        raise ValueError("the PNG of its mask is damaged") from None
    if values.ndim != 2:
        raise ValueError("the PNG of its mask has colours")
    return values != 0


def mask_bits(path: str | Path) -> int:
    """Bits per pixel of a mask file, 8 (or fewer) or 16 (or more), from its header alone. Raises DataError."""
    with opened(Path(path)) as image:
        return 16 if image.mode.startswith("I") or image.mode == "F" else 8


def write_mask(path: str | Path, mask: np.ndarray) -> Path:
    """Write a ``(H, W)`` mask as a PNG of the same depth (bool and uint8: 8 bits, uint16: 16 bits), by rename.

    Raises:
        ValueError: another shape or dtype.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8, np.uint16):
        raise ValueError(f"a mask is (H, W) of bool, uint8 or uint16, not {mask.shape} of {mask.dtype}")
    if mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask)).save(buffer, "PNG")
    return write_atomic(path, buffer.getvalue())


def cached_mask(root: Path, name: str, key: bytes, make: Callable[[], np.ndarray]) -> str:
    """A mask PNG that is made from other data, kept where ``maskwright.data.cache`` says (it may be deleted at any time).

    The file's name holds a hash of what it is made from, so a stale one is never used and a file never changes.

    Args:
        root: the dataset's folder.
        name: the sample's id.
        key: all that the mask is made from.
        make: gives the mask ``(H, W)``, uint8 or uint16; called where the file is not there yet.

    Returns:
        The path relative to ``root``; or absolute, where it is kept elsewhere.
    """
    folder = cache.mask_folder(root)
    path = folder / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}.png"
    if not path.is_file():
        write_mask(path, make())
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def count_values(mask: np.ndarray) -> np.ndarray:
    """How many pixels of a mask ``(H, W)`` have each value: int64 counts, at least 256 of them."""
    counts = np.zeros(256 if mask.dtype == np.uint8 else 65536, np.int64)
    flat = mask.reshape(-1)
    for start in range(0, flat.size, 1 << 22):  # In pieces: bincount makes 8 bytes of every pixel.
        counts += np.bincount(flat[start : start + (1 << 22)], minlength=len(counts))
    return counts
