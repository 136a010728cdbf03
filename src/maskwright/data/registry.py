"""The formats that datasets are read from and written in: one line each. Imports nothing heavy, as the help of commands lists them.

A format is a module that has

- ``LAYOUT``: what it looks like, for messages,
- ``detect(path, document)`` and ``read(path, reading)``,
- if it is written too, ``loss(dataset)`` (what it cannot hold) and ``write(dataset, folder)``.

``maskwright.data.formats`` says the types of these.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias


@dataclass(frozen=True)
class Format:
    """A format of datasets.

    Attributes:
        name: as in ``--format NAME`` and ``--to NAME``.
        home: its module.
        writes: whether it is written too.
        scores: whether it has a place for scores of predictions.
        alone: where it is found, nothing else is looked for: its files are maskwright's own.
        tools: whether annotation tools read it, so that ``predict --to`` offers it.
    """

    name: str
    home: str
    writes: bool = False
    scores: bool = False
    alone: bool = False
    tools: bool = False

    def module(self) -> ModuleType:
        return importlib.import_module(self.home)


_HERE = "maskwright.data.formats"
FORMATS = {
    format.name: format
    for format in (
        Format("manifest", "maskwright.data.manifest", writes=True, alone=True),
        Format("predictions", f"{_HERE}.predictions", alone=True),
        Format("samix", f"{_HERE}.samix", alone=True),
        Format("cvat", f"{_HERE}.cvat", writes=True, tools=True),
        Format("label-studio", f"{_HERE}.label_studio", writes=True, scores=True, tools=True),
        Format("nnunet", f"{_HERE}.nnunet", writes=True),
        Format("coco", f"{_HERE}.coco", writes=True, scores=True, tools=True),
        Format("yolo", f"{_HERE}.yolo", writes=True, tools=True),
        Format("voc", f"{_HERE}.voc", writes=True, tools=True),
        Format("labelme", f"{_HERE}.labelme", writes=True, tools=True),
        Format("folders", f"{_HERE}.folders", writes=True),
    )
}
"""By name. Where several fit a folder, the first is read, see ``maskwright.data.formats.fitting``."""

READ = tuple(FORMATS)
WRITTEN = tuple(name for name, format in FORMATS.items() if format.writes)
TOOLS = tuple(name for name, format in FORMATS.items() if format.tools)

if TYPE_CHECKING:
    ReadName: TypeAlias = str
    WrittenName: TypeAlias = str
    ToolName: TypeAlias = str
else:  # What the command line offers.
    ReadName, WrittenName, ToolName = Literal[READ], Literal[WRITTEN], Literal[TOOLS]
