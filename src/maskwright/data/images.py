"""Image and mask files on disk: reading with one clear error for what cannot be read, and writing by rename.

How an image of any mode becomes 8-bit RGB (:func:`read_image`):

- The EXIF rotation is applied (for PNG the ``eXIf`` chunk counts if it stands before the pixels, as Pillow writes it).
- Transparent pixels are laid over white, then alpha is dropped.
- Integers of more than 8 bits are divided by the full scale of the smallest camera depth (8, 10, 12, 14 or 16 bits)
  that holds the image's maximum, so that a 12-bit microscope image in a 16-bit file is not black. Integers that are
  negative or larger than 65535 are stretched linearly from their minimum..maximum. Several channels of 16 bits are refused.
- Floats within 0..1 are multiplied by 255, floats within 0..255 are rounded, others are stretched from their
  minimum..maximum.
- Of an animation or a file of many pages the first frame counts.

What cannot be an honest image is refused before it is decoded: anything but a regular file, more pixels than are read, a PNG
that is too short for what it promises or in which a checksum is wrong. Decoding takes at most eight bytes for each pixel.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from PIL import Image, ImageFile

from maskwright.data import cache, png
from maskwright.errors import DataError
from maskwright.problems import Problem

MAX_PIXELS = 200_000_000
"""An image of more pixels than this is refused before it is decoded."""

MAX_SIDE = 1_000_000
"""So is one of a longer side: a decoder works row by row, and a million rows of a few pixels take it minutes."""

_MOST_PIXELS = {"JPEG2000": 100_000_000, "WEBP": 100_000_000, "AVIF": 100_000_000}
# Their decoders hold several copies of all pixels, some of them with four bytes for each colour.

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read. Formats that run other programs or hold no pixels are left out."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)

_DAMAGE = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, struct.error, zlib.error, RuntimeError)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_quiet = threading.Lock()

# What Pillow's readers warn of in damaged metadata is harmless or ends in an error that names the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w*ImagePlugin")
_STRIP = 4_000_000  # Pixels that are converted at once.

MOST_PAGES = 1000
"""Pages are counted up to here."""

_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats of masks: what was written is what is read."""

LARGE = 25_000_000
"""An image of more pixels than this is decoded by one thread at a time, see :func:`turn`."""
_one_large = threading.Lock()


def read_image(path: str | Path) -> np.ndarray:
    """The pixels of an image file as ``(H, W, 3)`` uint8 RGB, as displayed (see the module's docstring).

    Raises:
        DataError: missing, unreadable or truncated file, more than ``MAX_PIXELS`` pixels, or a mode that has no RGB.
    """
    return rgb_of(open_verified(path), str(path))


def rgb_of(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of a decoded image of any mode as ``(H, W, 3)`` uint8 RGB (see the module's docstring).

    Args:
        image: as displayed, EXIF rotation applied.
        name: what a message calls it.

    Raises:
        DataError: a mode that has no RGB, or pixels that are not finite.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        convert = _to_8_bits(image, name)
    elif image.has_transparency_data:
        convert = _over_white
    else:
        convert = _as_rgb
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    try:
        # In strips, so that of a large image there are two copies in memory and not five.
        for start, strip in _strips(image):
            pixels[start : start + strip.height] = convert(strip)
    except ValueError:
        raise DataError([f"{name}: colour mode {image.mode} is not read; convert the image to RGB"]) from None
    return pixels


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in pieces of whole rows: the first row of each, and its pixels."""
    rows = max(1, _STRIP // max(1, image.width))
    if rows >= image.height:
        yield 0, image
        return
    for start in range(0, image.height, rows):
        yield start, image.crop((0, start, image.width, min(start + rows, image.height)))


def _as_rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _over_white(image: Image.Image) -> np.ndarray:
    rgba = image.convert("RGBA")
    return _as_rgb(Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba))


def turn(size: tuple[int, int]) -> AbstractContextManager[Any]:
    """A lock that a thread holds while it decodes all pixels of an image of ``(width, height)``.

    Only one thread at a time decodes an image of more than ``LARGE`` pixels, for whatever purpose, so that memory holds
    one of them and not one for each thread. A thread that holds the lock must not take it again. Smaller images need no
    lock: for them it does nothing.
    """
    return _one_large if math.prod(size) > LARGE else nullcontext()


def open_verified(path: str | Path, page: int = 0) -> Image.Image:
    """The fully decoded image in its own mode, EXIF rotation applied.

    Args:
        path: an image file.
        page: which page or frame of a file that has several, from 0.

    Raises:
        DataError: as :func:`read_image`; or there is no such page.
    """
    path = Path(path)
    with _opened(path) as image:
        _turn_to(image, page, path)
        orientation = _orientation(image)
        _refuse_deep_colour(image, path)
        _load(image, path)
        return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def page_count(path: str | Path) -> int:
    """How many pages or frames an image file has; counted up to ``MOST_PAGES``. Raises DataError as :func:`image_size` does."""
    with _opened(Path(path)) as image:
        return _pages(image)


def _pages(image: ImageFile.ImageFile) -> int:
    if image.format not in ("TIFF", "GIF", "WEBP", "AVIF", "PNG"):
        return 1
    try:
        if image.format != "TIFF":
            return int(getattr(image, "n_frames", 1))
        pages = 1
        while pages < MOST_PAGES:  # Page by page: a crafted file may promise any number.
            image.seek(pages)
            pages += 1
        return pages
    except EOFError:
        return pages
    except _DAMAGE:
        return 1  # Damage behind the first page does not concern the pixels that are read.
    finally:
        with suppress(*_DAMAGE, EOFError):
            image.seek(0)


def _turn_to(image: ImageFile.ImageFile, page: int, path: Path) -> None:
    if page == 0:
        return
    try:
        image.seek(page)
    except (EOFError, *_DAMAGE):
        raise DataError([f"{path}: has no page {page} (counted from 0); name another"]) from None
    _refuse_size(image, path)


def image_size(path: str | Path) -> tuple[int, int]:
    """``(width, height)`` as displayed, EXIF rotation applied, from the file's header alone.

    Raises:
        DataError: missing or unreadable file, or more than ``MAX_PIXELS`` pixels.
    """
    with _opened(Path(path)) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


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
    with _opened(path) as image:
        if image.format not in _LOSSLESS:
            what = f"a mask must be a PNG or TIFF, this is {image.format}, which changes values"
            remedy = "save it as PNG with one channel of ids"
            raise DataError([Problem(what, kind="lossy-mask", file=path, remedy=remedy, fix="")])
        if image.format == "TIFF" and _pages(image) > 1:
            raise DataError([f"{path}: a mask has one page, this has several; save the right one alone"])
        raw_mode = _raw_modes(image)
        if any("16" in mode and not mode.startswith(("I", "L;16")) for mode in raw_mode):
            raise DataError([f"{path}: a mask must have one channel of ids, this has colours of 16 bits; save it so"])
        _load(image, path)
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
    except (*_DAMAGE, Image.DecompressionBombError):
        raise ValueError("the PNG of its mask is damaged") from None
    if values.ndim != 2:
        raise ValueError("the PNG of its mask has colours")
    return values != 0


def mask_bits(path: str | Path) -> int:
    """Bits per pixel of a mask file, 8 (or fewer) or 16 (or more), from its header alone. Raises DataError."""
    with _opened(Path(path)) as image:
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


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Write a file under a temporary name and rename it, so that no reader gets half of it; folders are made as needed.

    Raises:
        DataError: the folder cannot be written to.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        os.replace(aside, path)
    except OSError as error:
        remedy = "free space or choose a folder you may write to"
        raise DataError([f"{path}: cannot be written ({_reason(error)}); {remedy}"]) from None
    finally:
        _discard(aside)
    return path


def place_file(source: str | Path, target: str | Path) -> Path:
    """Put the bytes of ``source`` at ``target``: a hard link where the file system allows it, else a copy by rename.

    Raises:
        DataError: the source cannot be read or the target cannot be written.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise DataError([f"{source}: missing; restore the file or remove it from the dataset"])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(os.path.realpath(source), target)
    except OSError:
        # Another file system, one without hard links, or an existing target: a copy succeeds, or raises the right error.
        aside = _aside(target)
        try:
            shutil.copyfile(source, aside)
            os.replace(aside, target)
        except OSError as error:
            remedy = "choose another folder"
            raise DataError([f"{target}: cannot copy {source} there ({_reason(error)}); {remedy}"]) from None
        finally:
            _discard(aside)
    return target


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read and its size checked; its pixels are not decoded yet."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(0, "Is a directory")
            raise DataError([f"{path}: is no regular file; replace it by an image"])
        with path.open("rb") as file:
            image = _identify(file, path)
            _refuse_size(image, path)
            place = file.tell()
            file.seek(0)
            if png.cannot_hold(file.read(33), status.st_size):
                what = f"{image.width} x {image.height} pixels cannot be in {status.st_size:,} bytes"
                raise DataError([f"{path}: damaged PNG file ({what}); replace or remove it"])
            file.seek(place)
            yield image
    except FileNotFoundError:
        raise DataError([f"{path}: missing; restore the file or remove it from the dataset"]) from None
    except OSError as error:
        raise DataError([f"{path}: unreadable ({_reason(error)}); check the file and its permissions"]) from None
    except ValueError:  # a zero byte in the path
        raise DataError([f"{path}: is no path of a file; correct it"]) from None


def _refuse_size(image: ImageFile.ImageFile, path: Path) -> None:
    width, height = image.size
    if width * height > _MOST_PIXELS.get(image.format or "", MAX_PIXELS):
        raise _too_large(path, f"{width} x {height} pixels", image.format or "")
    if max(width, height) > MAX_SIDE:
        what = f"{width} x {height} pixels: a side is longer than the {MAX_SIDE:,} that are read"
        raise DataError([f"{path}: {what}; cut the image into tiles"])


def _identify(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    # Pillow's own Image.open warns or fails by its process-wide limit without naming the size; the plugins do not.
    Image.init()
    prefix = file.read(16)
    for name in IMAGE_FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else False
        if accepted and not isinstance(accepted, str):
            file.seek(0)
            try:
                return factory(file, str(path))
            except Image.DecompressionBombError:
                raise _too_large(path, "far too many pixels") from None
            except _DAMAGE as error:
                raise DataError([f"{path}: damaged {name} file ({_reason(error)}); replace or remove it"]) from None
    what = "empty file" if not prefix else "no image format that is read"
    raise DataError([f"{path}: {what}; replace it, or save it as PNG or JPEG"])


def _refuse_deep_colour(image: Image.Image, path: Path) -> None:
    """Pillow would cut the 16 bits of a colour to the upper 8, which leaves little of a 12-bit image."""
    deep = any(";16" in mode for mode in _raw_modes(image))
    if deep and image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        raise DataError(
            [f"{path}: has 16 bits for each colour, and 8 are read; save it with 8, scaled as it should look"]
        )


def _raw_modes(image: Image.Image) -> list[str]:
    """How the pixels are stored in the file, as Pillow names it: ``L;4``, ``RGB;16B``, ..."""
    tiles = image.tile  # type: ignore[attr-defined]
    return [str(part) for tile in tiles for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))]


def _load(image: ImageFile.ImageFile, path: Path) -> None:
    try:
        if image.format == "PNG" and isinstance(image.fp, io.BufferedReader):
            place = image.fp.tell()
            if reason := png.fault(image.fp):
                raise DataError([f"{path}: truncated or damaged ({reason}); replace or remove it"])
            image.fp.seek(place)
        with _without_pillows_limit(image):
            image.load()
    except _DAMAGE as error:
        raise DataError([f"{path}: truncated or damaged ({_reason(error)}); replace or remove it"]) from None


@contextmanager
def _without_pillows_limit(image: Image.Image) -> Iterator[None]:
    """Decode within our own limit of pixels alone: Pillow has one more for TIFF, of 89 and 179 million."""
    if image.format != "TIFF" or image.width * image.height < 89_000_000:
        yield
        return
    with _quiet:  # It is a variable of the process.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow applies a TIFF's orientation itself, to the size and to the pixels.
    try:
        # The base class's method: PNG's own would decode all pixels to look for EXIF data behind them.
        return int(Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))
    except _DAMAGE:
        return 1  # Viewers show an image with broken EXIF data as it is stored; so do we.


def _to_8_bits(image: Image.Image, name: str) -> Callable[[Image.Image], np.ndarray]:
    """How pixels of more than 8 bits become ``(h, w, 1)`` uint8, by the range of all of them."""
    ends = [(values.min(), values.max()) for _, strip in _strips(image) if (values := np.asarray(strip)).size]
    low, high = float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError([f"{name}: holds NaN or infinite pixels; replace them by numbers"])
    floats = image.mode == "F"
    offset, scale = 0.0, 1.0
    if floats and low >= 0 and high <= 1:
        scale = 255.0
    elif low < 0 or high > (255 if floats else 65535):
        offset, scale = low, 255 / (high - low or 1)
    elif not floats:
        scale = 255 / next(full for full in (255, 1023, 4095, 16383, 65535) if high <= full)
    return lambda strip: np.rint((np.asarray(strip, np.float64) - offset) * scale).astype(np.uint8)[:, :, None]


def _too_large(path: Path, size: str, kind: str = "") -> DataError:
    most, remedy = _MOST_PIXELS.get(kind), "cut the image into tiles or downscale it"
    limit = f"{most:,} that are read of {kind}" if most else f"{MAX_PIXELS:,} that are read"
    return DataError([f"{path}: {size} are more than the {limit}; {remedy}"])


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).strip().split("\n")[0]
    return text or type(error).__name__


def _aside(path: Path) -> Path:
    return path.with_name(f".{uuid4().hex}.part")


def _discard(path: Path) -> None:
    with suppress(OSError):  # Gone after a rename; and where its folder cannot be reached, that was reported already.
        path.unlink()
