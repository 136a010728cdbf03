"""Reading YAML that other tools wrote: bounded, every scalar as the text that is there, and nothing that can grow or run."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from maskwright.data.fields import shown
from maskwright.errors import DataError

MAX_BYTES = 1_000_000
"""A YAML file of more bytes is refused before it is read; one of 10,000 names has a quarter."""


class _Loader(yaml.BaseLoader):
    """Texts, lists and objects alone: ``no`` is a name here, not false. No aliases, which let a small file grow."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refusal("has an alias (*name), which is not read; write the value out", self.peek_event())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal("has a key that is no text; correct it", key_node)
            if key_node.value in keys:
                raise _refusal(f"has the key {shown(key_node.value)} twice; remove one", key_node)
            keys.add(key_node.value)
        return super().construct_mapping(node, deep)


def _refusal(what: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=at.start_mark)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of one document: texts, lists and dicts with keys that are texts; an empty value is "".

    Raises:
        DataError: missing, unreadable, more than ``MAX_BYTES``, no YAML (with the line), or with an alias or a key twice.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError([f"{path}: is no regular file; replace it by one"])
        if status.st_size > MAX_BYTES:
            raise DataError([f"{path}: has more than the {MAX_BYTES:,} bytes that are read; shorten it"])
        return yaml.load(path.read_text("utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise DataError([f"{path}: missing; check the path"]) from None
    except OSError as error:
        raise DataError([f"{path}: unreadable ({error.strerror}); check the file and its permissions"]) from None
    except UnicodeDecodeError as error:
        raise DataError([f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        what = error.problem or "cannot be understood"
        text = what if "; " in what else f"not valid YAML ({what}); correct it"
        raise DataError([f"{path}: {where}{text}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split()) or "nested too deeply"
        raise DataError([f"{path}: not valid YAML ({text}); correct it"]) from None
