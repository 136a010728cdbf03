"""Reading XML that other tools wrote: bounded, and without document types, as entities are declared in these.

A document type lets a file of a few bytes grow without end, and name other files and addresses. No tool whose XML is
read here writes one, so that a file with one is refused where it begins.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from maskwright.errors import DataError

MAX_BYTES = 500_000_000
"""An XML file of more bytes is refused before it is read."""

MAX_ELEMENTS = 3_000_000
"""A file of more elements is refused; each takes about half a kilobyte of memory."""

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DEEPEST = 50
_PIECE = 1 << 20


class _RefusedError(Exception):
    """What the handlers refuse, with the line."""


def read_xml(path: Path) -> Element:
    """The root element of an XML file.

    Raises:
        DataError: missing, unreadable or no XML (with line and column); a document type; more than ``MAX_BYTES`` bytes or
            ``MAX_ELEMENTS`` elements, or elements that are nested deeper than any tool's.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError([f"{path}: is no regular file; replace it by one"])
        if status.st_size > MAX_BYTES:
            raise DataError([f"{path}: has more than the {MAX_BYTES:,} bytes that are read; split it"])
        with path.open("rb") as file:
            return _parsed(iter(lambda: file.read(_PIECE), b""), str(path))
    except FileNotFoundError:
        raise DataError([f"{path}: missing; check the path"]) from None
    except OSError as error:
        raise DataError([f"{path}: unreadable ({error.strerror}); check the file and its permissions"]) from None


def parse_xml(content: bytes, name: str) -> Element:
    """The root element of XML that came otherwise, called ``name`` in messages. Raises DataError as :func:`read_xml`."""
    return _parsed([content], name)


def _parsed(pieces: Iterable[bytes], name: str) -> Element:
    builder = TreeBuilder()
    parser = _parser(builder)
    try:
        for piece in pieces:
            parser.Parse(piece, False)
        parser.Parse(b"", True)
        return builder.close()
    except _RefusedError as error:
        raise DataError([f"{name}: line {parser.CurrentLineNumber}: {error}"]) from None
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise DataError([f"{name}: not valid XML ({error}); correct it there"]) from None


def root_tag(path: Path) -> str:
    """The name of a file's root element, or of its document type, from its first bytes; empty where it is no XML."""
    found: list[str] = []

    def start(tag: str, *_: object) -> None:
        found.append(tag)
        raise _RefusedError  # What follows is of no interest, and of a document type it is not to be read.

    parser = expat.ParserCreate()
    parser.StartElementHandler = parser.StartDoctypeDeclHandler = start
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            parser.Parse(file.read(100_000), False)
    except (_RefusedError, expat.ExpatError, OSError, ValueError, LookupError):
        pass  # Reading the file will name the fault.
    return found[0] if found else ""


def require_writable(texts: Iterable[str]) -> None:
    """Raise DataError for the first text with a character that XML cannot hold, not even escaped."""
    if bad := next((text for text in texts if _NO_XML.search(text)), None):
        raise DataError([f"{bad!r} holds a character that XML cannot hold; rename it"])


def _parser(builder: TreeBuilder) -> expat.XMLParserType:
    parser = expat.ParserCreate()
    depth = count = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST:
            raise _RefusedError(f"elements are nested deeper than {_DEEPEST}; correct it")
        if count > MAX_ELEMENTS:
            raise _RefusedError(f"has more than {MAX_ELEMENTS:,} elements; split the file")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise _RefusedError("has a document type (<!DOCTYPE>), which is not read; remove it")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    return parser
