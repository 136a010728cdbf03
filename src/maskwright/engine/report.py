"""One self-contained HTML page about a run: text, tables, curves, bars and pictures.

The page opens offline, needs no script, follows the reader's light or dark setting, and every picture has a text that
says what it shows. Charts are inline SVG in the colour of the page's text.
"""

from __future__ import annotations

import base64
import html
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from maskwright.data.files import write_atomic
from maskwright.data.pictures import thumbnail
from maskwright.engine.outcome import Outcome

_INK = "#010203"
# Charts are drawn in this colour, which is then replaced by the colour of the page's text.
_LINES = ("#4c8bd6", "#d98200", "#1f9d72", "#c65aa0", "#d8552b", "#8a7ad6", "#a89a1c")
# Read on white and on near black alike.
_CURVE_POINTS = 1500

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1d2329; --soft: #5b6670; --line: #dde2e7; --band: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181c; --ink: #e4e8ec; --soft: #9aa5b0; --line: #2e363e; --band: #1b2127; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; }
header p, .note, figcaption { color: var(--soft); }
header p { margin: 0; }
.note { margin: 0 0 .8rem; }
section { margin-top: 2.2rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
section p { max-width: 46rem; white-space: pre-line; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem 1.1rem .4rem .5rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody tr:nth-child(odd) { background: var(--band); }
.number { text-align: right; }
.chart svg { width: 100%; max-width: 46rem; height: auto; display: block; color: var(--ink); }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.wide { grid-template-columns: repeat(auto-fill, minmax(28rem, 1fr)); }
@media (max-width: 32rem) { .pictures { grid-template-columns: 1fr; } }
figure { margin: 0; }
figure img { width: 100%; height: auto; border-radius: 4px; display: block; background: var(--band); }
figcaption { font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Picture:
    """One picture of a grid.

    Attributes:
        image: ``(H, W, 3)`` uint8, or a Pillow image.
        caption: shown below it.
        alt: what the picture shows, for those who cannot see it; left out, the caption.
    """

    image: NDArray[np.uint8] | Image.Image
    caption: str = ""
    alt: str = ""


class Report:
    """A page that is filled from top to bottom; every method appends one section and returns the report.

    All texts are escaped. Numbers are shown with four significant digits, None and NaN as a dash.

    >>> report = Report("Polyps", "SAMIX, 45 minutes")
    >>> report.table("Test split", ["category", "Dice"], [["polyp", 0.83]]).save("run/report.html")
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._sections: list[str] = []

    def text(self, text: str, title: str = "") -> Report:
        """A heading, if given, and a paragraph for each part of ``text`` between empty lines."""
        paragraphs = "".join(f"<p>{_escape(part)}</p>" for part in re.split(r"\n\s*\n", text.strip()) if part)
        return self._add(title, paragraphs)

    def outcome(self, outcome: Outcome) -> Report:
        """How the training ended: the score of the exported model against what costs nothing, and a warning where it is no better."""
        if outcome.score is None:
            return self.text(outcome.sentences[0], "Outcome")
        return self.bars(
            f"Outcome: {outcome.metric} on the validation split",
            dict(outcome.rows),
            y=outcome.metric,
            note="\n".join(filter(None, outcome.sentences)),
        )

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> Report:
        """A table; columns of numbers are aligned to the right. Raises ValueError for rows of another length."""
        uneven = [number for number, row in enumerate(rows) if len(row) != len(columns)]
        if uneven:
            raise ValueError(f"table {title!r}: rows {uneven} do not have {len(columns)} cells")
        numeric = [bool(rows) and all(_is_number(row[c]) for row in rows) for c in range(len(columns))]
        kinds = [' class="number"' if number else "" for number in numeric]
        head = "".join(f'<th scope="col"{kind}>{_escape(name)}</th>' for name, kind in zip(columns, kinds))
        body = "".join(
            "<tr>" + "".join(f"<td{kind}>{_escape(_text_of(cell))}</td>" for cell, kind in zip(row, kinds)) + "</tr>"
            for row in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return self._add(title, f'{_note(note)}<div class="scroll" tabindex="0">{table}</div>')

    def curves(
        self,
        title: str,
        series: Mapping[str, tuple[ArrayLike, ArrayLike]],
        *,
        x: str = "step",
        y: str = "",
        note: str = "",
        marks: Mapping[str, float] | None = None,
    ) -> Report:
        """Lines over steps, all in one chart.

        Args:
            series: name → (steps, values), equally long; NaN makes a gap. Of a long one evenly spaced points are shown.
            x, y: names of the axes.
            marks: name → step at which a dashed line stands.
        """
        lines = {name: _series(name, *values) for name, values in series.items()}
        lines = {name: values for name, values in lines.items() if len(values[0])}
        if not lines:
            return self._add(title, _note(note) + "<p>There are no values yet.</p>")
        figure, axes = _figure()
        for number, (name, (steps, values)) in enumerate(lines.items()):
            points = np.unique(np.linspace(0, len(steps) - 1, _CURVE_POINTS).round().astype(int))
            marker = "o" if len(steps) == 1 else None
            colour = _LINES[number % len(_LINES)]
            axes.plot(steps[points], values[points], label=_literal(name), color=colour, lw=1.8, marker=marker)
        for name, step in (marks or {}).items():
            axes.axvline(step, color=_INK, lw=1.0, ls="--", alpha=0.7)
            axes.annotate(
                f"{_literal(name)} ({x} {_text_of(step)})",
                (step, 1.0),
                (3, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=_INK,
            )
        axes.set_xlabel(_literal(x))
        axes.set_ylabel(_literal(y))
        if len(lines) > 1 or not y:
            axes.legend(frameon=False, labelcolor=_INK)
        last = ", ".join(f"{name} {_text_of(float(values[-1]))}" for name, (_, values) in lines.items())
        marked = "".join(f"; {name} at {x} {_text_of(step)}" for name, step in (marks or {}).items())
        return self._add(
            title, _note(note) + self._chart(figure, f"{title}: curves over {x}; last values: {last}{marked}")
        )

    def bars(
        self,
        title: str,
        values: Mapping[str, float],
        *,
        y: str = "",
        errors: Mapping[str, tuple[float, float]] | None = None,
        note: str = "",
    ) -> Report:
        """Horizontal bars, the first on top, each with its number.

        Args:
            values: name → value; one that is not finite gets no bar.
            y: what the values are.
            errors: name → (low, high), the ends of an interval around the value.
        """
        if not values:
            return self._add(title, _note(note) + "<p>There are no values yet.</p>")
        names, lengths = list(values), np.array([float(value) for value in values.values()])
        figure, axes = _figure(height=0.8 + 0.38 * len(names))
        axes.barh(range(len(names)), np.nan_to_num(lengths, nan=0, posinf=0, neginf=0), color=_LINES[0], height=0.62)
        for place, (name, length) in enumerate(zip(names, lengths)):
            low, high = (errors or {}).get(name, (length, length))
            if errors and name in errors:
                axes.plot([low, high], [place, place], color=_INK, lw=1.4)
            axes.annotate(
                _text_of(float(length)),
                (max(high, 0) if math.isfinite(high) else 0, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                color=_INK,
            )
        axes.set_yticks(range(len(names)), [_literal(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.15)
        axes.set_xlabel(_literal(y))
        listed = ", ".join(f"{name} {_text_of(float(value))}" for name, value in values.items())
        return self._add(title, _note(note) + self._chart(figure, f"{title}: bars of {y or 'values'}: {listed}"))

    def pictures(self, title: str, note: str, rows: Sequence[Picture], *, side: int = 320) -> Report:
        """A grid of pictures with captions.

        Args:
            note: how to read them.
            side: longest side in pixels that is kept of each; wide ones (as from ``side_by_side``) keep twice as much.
        """
        wide = any(_width_to_height(picture.image) > 1.8 for picture in rows)
        figures = "".join(_embed(picture, side * (2 if wide else 1)) for picture in rows)
        kind = "pictures wide" if wide else "pictures"
        return self._add(title, f'{_note(note)}<div class="{kind}">{figures}</div>')

    def html(self) -> str:
        """The whole page."""
        subtitle = f"<p>{_escape(self.subtitle)}</p>" if self.subtitle else ""
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f"<title>{_escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><header><h1>{_escape(self.title)}</h1>{subtitle}</header>\n<main>\n"
            + "\n".join(self._sections)
            + "\n</main></body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page by rename and return its path. Raises DataError where it cannot be written."""
        return write_atomic(path, self.html())

    def _add(self, title: str, content: str) -> Report:
        heading = f"<h2>{_escape(title)}</h2>" if title else ""
        self._sections.append(f"<section>{heading}{content}</section>")
        return self

    def _chart(self, figure: Any, alt: str) -> str:
        """The figure as inline SVG. Ids in it are unique on the page, and the same on every run."""
        import matplotlib

        buffer = StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"chart {len(self._sections)}"}):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r"\sid=\"[A-Za-z.]+\d?d?_\d+\"", "", svg)  # names of groups, the same in every chart
        svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
        svg = svg.replace("<svg ", f'<svg role="img" aria-label="{_escape(alt)}" ', 1)
        return f'<div class="chart">{svg}</div>'


def seconds_of_chart() -> float:
    """How long a chart takes here, for what sets time aside; what charts need is imported then."""
    series = {"a": ([0, 1], [0, 1])}
    Report("").curves("", series)
    began = time.monotonic()
    Report("").curves("", series)
    return time.monotonic() - began


def _figure(height: float = 3.4) -> tuple[Any, Any]:
    # Half a second to import, and only the process that writes a report needs it. The figure is drawn without pyplot,
    # which would choose a window system and keep every figure in a global list.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, color=_INK, alpha=0.12, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
        spine.set_alpha(0.4)
    return figure, axes


def _series(name: str, steps: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    across, up = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if across.shape != up.shape or across.ndim != 1:
        raise ValueError(f"curve {name!r}: {across.shape} steps and {up.shape} values are not equally long lists")
    up = np.where(np.isfinite(up), up, np.nan)
    return across, up


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would read a formula


def _embed(picture: Picture, side: int) -> str:
    image = picture.image if isinstance(picture.image, np.ndarray) else np.asarray(picture.image.convert("RGB"))
    small = thumbnail(image, side)
    encoded = min((_encoded(small, "JPEG"), _encoded(small, "PNG")), key=len)
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(encoded).decode()
    height, width = small.shape[:2]
    alt = _escape(picture.alt or picture.caption)
    img = f'<img src="data:image/{kind};base64,{data}" width="{width}" height="{height}" alt="{alt}" loading="lazy">'
    caption = f"<figcaption>{_escape(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure>{img}{caption}</figure>"


def _encoded(image: NDArray[np.uint8], kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=86, optimize=True)
    return buffer.getvalue()


def _width_to_height(image: NDArray[np.uint8] | Image.Image) -> float:
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    return width / height


def _note(note: str) -> str:
    return f'<p class="note">{_escape(note)}</p>' if note else ""


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | np.number) and not isinstance(value, bool))


def _text_of(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return str(value)


def _escape(text: object) -> str:
    return html.escape(str(text))
