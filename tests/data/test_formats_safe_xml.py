"""XML of other tools: read where it is plain, refused where it could harm."""

import os
from pathlib import Path

import pytest

from maskwright.data.formats import safe_xml
from maskwright.data.formats.safe_xml import read_xml, require_writable, root_tag
from maskwright.errors import DataError

LAUGHS = (
    '<!DOCTYPE a [<!ENTITY x "ha">' + "".join(f'<!ENTITY x{i} "{f"&x{i - 1};" * 10}">' for i in range(1, 9)) + "]>"
    "<a>&x8;</a>"
)


def test_plain_xml_is_read_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    text = '<?xml version="1.0" encoding="{}"?>\n<!-- a comment --><a b="é"><c>1 &lt; 2</c><c/></a>'
    for encoding in ("utf-8", "utf-16", "iso-8859-1"):
        path.write_bytes(text.format(encoding).encode(encoding))
        root = read_xml(path)
        assert (root.tag, root.get("b"), root.findtext("c"), len(root)) == ("a", "é", "1 < 2", 2)
        assert root_tag(path) == "a"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LAUGHS, "line 1: has a document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "has a document type"),
        ('<?xml version="1.0"?>\n<!DOCTYPE a SYSTEM "http://localhost/a.dtd">\n<a/>', "line 2: has a document type"),
        ("<a>&x;</a>", "not valid XML (undefined entity: line 1, column 3)"),
        ("<a><b></a>", "not valid XML (mismatched tag"),
        ("", "not valid XML (no element found"),
        ("<a", "not valid XML"),
        ('<?xml version="1.0" encoding="no-such"?><a/>', "not valid XML"),
        ("<a>" * 60 + "</a>" * 60, "nested deeper than 50"),
    ],
)
def test_what_is_not_plain_is_refused_in_one_line(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        read_xml(path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert root_tag(path) == ("" if content in ("", "<a") or "no-such" in content else "a")


def test_files_that_are_none_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="missing"):
        read_xml(tmp_path / "no.xml")
    os.mkfifo(tmp_path / "pipe.xml")
    with pytest.raises(DataError, match="no regular file"):
        read_xml(tmp_path / "pipe.xml")
    assert root_tag(tmp_path / "pipe.xml") == ""
    (tmp_path / "a.xml").write_text("<a><b/><b/></a>")
    monkeypatch.setattr(safe_xml, "MAX_ELEMENTS", 2)
    with pytest.raises(DataError, match="more than 2 elements"):
        read_xml(tmp_path / "a.xml")
    monkeypatch.setattr(safe_xml, "MAX_BYTES", 5)
    with pytest.raises(DataError, match="more than the 5 bytes"):
        read_xml(tmp_path / "a.xml")


def test_texts_that_xml_cannot_hold_are_refused() -> None:
    require_writable(["a", "ä", "😀", "<&>"])
    with pytest.raises(DataError, match="cannot hold"):
        require_writable(["a", "b\ufffe"])
