"""Embeddings on disk: an image is encoded once, ever.

One safetensors entry per image, or per crop of an image: a file for each (``store_files.py``), or a few large files for very many
images (``shards.py``). Several processes may fill one store at the same time. The key covers everything that an embedding
depends on. Each entry tells its key and a checksum of its tensors, so that a flipped bit, or another image's entry under this
one's name, is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from maskwright.data.files import reason_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.errors import DataError, WeightsError
from maskwright.sam.shards import Shards
from maskwright.sam.store_files import Entries, OneFileEach, write_aside

logger = logging.getLogger(__name__)

LEVELS = ("high0", "high1", "low")
"""The tensors of an embedding, from fine to coarse."""

_SIGNATURE = "signature.json"
_KEY, _CHECKSUM = "key", "checksum"
"""What the header of an entry tells."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""Dtypes that are stored, by name."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What decides an embedding besides the image.

    Attributes:
        weights: ``weights_signature`` of the encoder.
        preprocessing: version of the preprocessing.
        size: side of the canvas that images are brought to, in pixels.
        dtype: ``float32``, or ``float16`` for half the space.
    """

    weights: str
    preprocessing: int
    size: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise WeightsError(f"embeddings cannot be stored as {self.dtype!r}; choose {' or '.join(_DTYPES)}")


def weights_signature(module: nn.Module, context: str = "") -> str:
    """A hash of names, shapes, dtypes and bytes of all parameters and persistent buffers; independent of the device.

    Args:
        context: what else decides the module's output and is not in its tensors, such as window sizes, as text.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    return tensors_signature(module.state_dict(), context)


def tensors_signature(tensors: Mapping[str, Tensor], context: str = "") -> str:
    """The same of some tensors by name."""
    digest = hashlib.sha256(context.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class EmbeddingStore:
    """A folder of embeddings of one encoder, with the latest ones kept in memory.

    Use one instance per process and thread; instances share the folder safely::

        keys = [store.key(path) for path in paths]
        for key in store.missing(keys):
            store.save(key, ...)
        batch = store.load(keys)["low"]  # (B, C, S/16, S/16)

    Args:
        folder: created if it is absent. Otherwise it must be empty, or a store with the same signature.
        signature: what the embeddings are made with.
        memory_bytes: bound on the tensors kept in memory; 0 keeps none.
        overwrite: empty a store that was made with another signature instead of refusing it.
        shards: keep entries in a few large files instead of one each; None: as the store does it already, and a new one with one each.

    Raises:
        WeightsError: the folder holds something else, or a store made otherwise (says what differs), or cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        signature: Signature,
        *,
        memory_bytes: int = 1 << 30,
        overwrite: bool = False,
        shards: bool | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.signature = signature
        self.memory_bytes = memory_bytes
        self._salt = json.dumps(asdict(signature), sort_keys=True).encode()
        self._digests: dict[Path, tuple[int, int, bytes]] = {}
        self._recent: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._recent_bytes = 0
        self._found_damaged = 0
        self._files = _files(self.folder)
        self._open(overwrite)
        if shards is not None:
            self._files = _files(self.folder, shards)

    def close(self) -> None:
        """Let another process go on with the shard that this one was writing. The store can be used again afterwards."""
        if isinstance(self._files, Shards):
            self._files.close()

    def key(self, image: str | Path | bytes, crop: Sequence[float] = (), reading: ImageReading = PLAIN) -> str:
        """The key of an image: SHA-256 over the bytes of its file and the signature, as 64 hexadecimal digits.

        A file is hashed again only when its size or time of modification changed.

        Args:
            image: path of the image file, or its bytes.
            crop: where a part of the image was encoded by itself, all numbers that decide which part, and how it was cut out.
            reading: how the image file was read, where it left a choice.

        Raises:
            DataError: the file cannot be read.
        """
        content = hashlib.sha256(image).digest() if isinstance(image, bytes) else self._file_digest(Path(image))
        geometry = struct.pack(f"<{len(crop)}d", *crop)
        # Nothing where nothing is said, so that keys of before stay what they were.
        said = json.dumps(reading.as_dict(), sort_keys=True).encode() if reading != PLAIN else b""
        return hashlib.sha256(content + self._salt + geometry + said).hexdigest()

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys whose embedding must still be made, each once, in the order given.

        Entries are read for that. Damaged ones, and those of another image, count as missing and are logged: a store is a cache,
        ``save`` replaces them.
        """
        self._files.refresh()
        # One after the other: what is not kept is forgotten at once.
        return [key for key in dict.fromkeys(keys) if self._read(key) is None]

    def load(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The embeddings of B >= 1 images: each of ``LEVELS`` as (B, C, H, W) on the CPU, the caller's own copy.

        Raises:
            WeightsError: there is no intact entry for some of the keys (names them); ask ``missing`` first.
        """
        if not all(key in self._recent for key in keys):
            self._files.refresh()
        found = {key: self._read(key) for key in dict.fromkeys(keys)}
        absent = [key for key, entry in found.items() if entry is None]
        if absent:
            raise WeightsError(f"{self.folder}: no embeddings for {', '.join(absent)}; encode these images again")
        entries = [entry for key in keys if (entry := found[key]) is not None]
        return {level: torch.stack([entry[level] for entry in entries]) for level in LEVELS}

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the embedding of one image, in the signature's dtype; replaces what is there.

        Args:
            tensors: each of ``LEVELS`` as (C, H, W), on any device.

        Raises:
            WeightsError: values are not finite (in the store's dtype), or the entry cannot be written.
            ValueError: other levels or shapes.
        """
        if set(tensors) != set(LEVELS) or any(tensor.ndim != 3 for tensor in tensors.values()):
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"expected {', '.join(LEVELS)}, each (C, H, W); got {shapes}")
        dtype = _DTYPES[self.signature.dtype]
        # Copies: slices of a batch would keep the whole batch in memory.
        entry = {
            name: tensor.detach().to("cpu", dtype, copy=True).contiguous() for name, tensor in sorted(tensors.items())
        }
        infinite = [name for name, tensor in entry.items() if not bool(torch.isfinite(tensor).all())]
        if infinite:
            raise WeightsError(
                f"embedding {key}: {', '.join(infinite)} not finite as {self.signature.dtype}; "
                "use float32, or other weights if it is float32 already"
            )
        self._files.put(key, save(entry, {_KEY: key, _CHECKSUM: _checksum(entry)}))
        self._remember(key, entry)

    def _open(self, overwrite: bool) -> None:
        path = self.folder / _SIGNATURE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8") if path.exists() else None
            others = text is None and any(not child.name.startswith(".") for child in self.folder.iterdir())
        except (FileExistsError, NotADirectoryError):
            raise WeightsError(f"{self.folder}: is not a folder; give another for the embeddings") from None
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path}: cannot be read ({reason_of(error)}); give another folder") from error
        if others:
            raise WeightsError(f"{self.folder}: holds something else than embeddings; give a new or empty folder")
        differences = [] if text is None else _differences(text, self.signature)
        if differences and not overwrite:
            raise WeightsError(
                f"{self.folder}: these embeddings were made otherwise and are not used: {'; '.join(differences)}. "
                "Give another folder, or --overwrite to replace them"
            )
        if differences:
            self._empty()
        if differences or text is None:
            # Two processes may both come here. Even if they disagree nothing wrong is read: keys cover the signature.
            write_aside(path, json.dumps(asdict(self.signature), indent=2).encode())

    def _empty(self) -> None:
        try:
            self._files.clear()
        except OSError as error:
            raise WeightsError(f"{self.folder}: cannot be emptied: {reason_of(error)}") from error

    def _file_digest(self, path: Path) -> bytes:
        try:
            stat = path.stat()
            known = self._digests.get(path)
            if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
                return known[2]
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise DataError([f"{path}: cannot be read ({reason_of(error)}); restore the file"]) from error
        self._digests[path] = (stat.st_size, stat.st_mtime_ns, digest)
        return digest

    def _read(self, key: str) -> dict[str, Tensor] | None:
        """An entry; None where it is not there, or not as it was written, which is logged."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        for path, content in self._files.get(key):
            if (entry := self._intact(key, path, content)) is not None:
                self._remember(key, entry)
                return entry
        return None

    def _intact(self, key: str, path: Path, content: bytes) -> dict[str, Tensor] | None:
        """The entry in some bytes; None where they are not what was written, which is logged."""
        try:
            told, entry = _metadata(content), load(content)
        except (SafetensorError, ValueError, RecursionError) as error:
            return self._damaged(path, error)
        dtype = _DTYPES[self.signature.dtype]
        if set(entry) != set(LEVELS) or any(tensor.dtype != dtype for tensor in entry.values()):
            held = ", ".join(f"{name} as {tensor.dtype}" for name, tensor in sorted(entry.items()))
            return self._damaged(path, f"holds {held or 'nothing'}")
        if _CHECKSUM not in told:
            return self._damaged(path, "without a checksum, as an older maskwright wrote it")
        if told.get(_KEY) != key:
            return self._damaged(path, "is the entry of another image")
        if told[_CHECKSUM] != _checksum(entry):
            return self._damaged(path, "its checksum is another one")
        return entry

    def _damaged(self, path: Path, reason: object) -> None:
        """Log the first damaged entry by name, and that there are more."""
        self._found_damaged += 1
        if self._found_damaged == 1:
            logger.warning("%s: damaged (%s); this image is encoded again", path, reason)
        elif self._found_damaged == 2:
            logger.warning("%s: further entries are damaged; their images are encoded again", self.folder)

    def _remember(self, key: str, entry: dict[str, Tensor]) -> None:
        replaced = self._recent.pop(key, None)
        self._recent_bytes += _bytes(entry) - (_bytes(replaced) if replaced else 0)
        self._recent[key] = entry
        while self._recent_bytes > self.memory_bytes:
            self._recent_bytes -= _bytes(self._recent.popitem(last=False)[1])


def _files(folder: Path, shards: bool | None = None) -> Entries:
    """Where a folder keeps its entries, or is to keep them. Raises WeightsError where it does so in the other way already."""
    each, place = OneFileEach(folder), folder / "shards"
    if shards is None:
        return Shards(place) if place.is_dir() else each
    if shards and not each.is_empty():
        raise WeightsError(f"{folder}: has one file for each image; leave --shards out, or give another folder")
    if not shards and place.is_dir():
        raise WeightsError(f"{folder}: keeps its entries in shards; give --shards, or another folder")
    return Shards(place) if shards else each


def _differences(text: str, signature: Signature) -> list[str]:
    """What differs between the signature in a store and the one that is asked for, one phrase each."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    names = [field.name for field in fields(Signature)]
    if not isinstance(found, dict) or set(found) != set(names):
        return [f"{_SIGNATURE} is damaged or of another version"]
    wanted = asdict(signature)
    return [f"{name} is {found[name]}, now {wanted[name]}" for name in names if found[name] != wanted[name]]


def _checksum(entry: Mapping[str, Tensor]) -> str:
    """CRC-32 of the bytes of an entry's tensors, as eight hexadecimal digits."""
    value = 0
    for name in LEVELS:
        value = zlib.crc32(f"{name} {tuple(entry[name].shape)}".encode(), value)
        value = zlib.crc32(entry[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file. Raises ValueError where there is no such header."""
    if len(content) < 8:
        raise ValueError("cut off")
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + min(length, len(content))])
    told = header.get("__metadata__") if isinstance(header, dict) else None
    return told if isinstance(told, dict) else {}


def _bytes(entry: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in entry.values())
