"""Pieces of a self-contained HTML page: figures as inline PNG, tables, sections. No link leads out of the file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attlas.dashboards.colours import enlarge
from attlas.schemas.errors import InvalidValueError

__all__ = ["Figure", "Section", "Table", "png_bytes", "png_uri", "write_report"]

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; background: #fff; color: #1f2937;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 44px 0 6px; }
h3 { font-size: 15px; margin: 26px 0 6px; font-weight: 600; }
p { margin: 4px 0 12px; max-width: 46em; } p.lead, figcaption, .note { color: #6b7280; }
.row { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-end; margin: 0 0 14px; }
figure { margin: 0; } figure img { display: block; border-radius: 3px; image-rendering: pixelated; }
figcaption { font-size: 12px; line-height: 1.4; margin-bottom: 3px; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 6px 0 18px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid #e5e7eb; text-align: right; }
th { color: #6b7280; font-weight: 500; font-size: 13px; } th.text, td.text { text-align: left; }
caption { text-align: left; font-weight: 600; padding-bottom: 4px; }
"""


@dataclass(frozen=True)
class Figure:
    """One picture: uint8 (rows, columns, RGB), a caption (plain text), and its width on the page in pixels."""

    pixels: NDArray[np.uint8]
    caption: str = ""
    width: int = 160

    def html(self) -> str:
        """Return the figure as markup; the caption is escaped."""
        text = html.escape(self.caption)
        source = png_uri(self.pixels, self.width)
        return (
            f'<figure style="width:{self.width}px"><figcaption>{text}</figcaption>'
            f'<img src="{source}" width="{self.width}" alt="{text}"></figure>'
        )


@dataclass(frozen=True)
class Table:
    """Rows of equal columns; numbers are shown with three digits, other values as text."""

    rows: Sequence[Mapping[str, object]]
    caption: str = ""
    note: str = ""

    def html(self) -> str:
        """Return the table as markup; every cell is escaped. An empty table says so."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        texts = {name for name in columns if all(isinstance(row.get(name), str | None) for row in self.rows)}
        kinds = {name: ' class="text"' if name in texts else "" for name in columns}
        head = "".join(f"<th{kinds[name]}>{html.escape(str(name))}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td{kinds[name]}>{html.escape(_cell(row.get(name)))}</td>" for name in columns) + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        if not self.rows:
            return f'<p class="note">{html.escape(self.caption)}: no rows.</p>{note}'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


@dataclass(frozen=True)
class Section:
    """A heading, a plain text below it, and rows of figures and tables; each row may have a title of its own."""

    title: str
    text: str = ""
    rows: Sequence[tuple[str, Sequence[Figure | Table]]] = ()

    def html(self) -> str:
        """Return the section as markup."""
        parts = [f"<h2>{html.escape(self.title)}</h2>"]
        if self.text:
            parts.append(f"<p>{html.escape(self.text)}</p>")
        for title, pieces in self.rows:
            if title:
                parts.append(f"<h3>{html.escape(title)}</h3>")
            parts.append('<div class="row">' + "".join(piece.html() for piece in pieces) + "</div>")
        return "<section>" + "".join(parts) + "</section>"


def write_report(path: str | Path, *sections: Section, title: str = "attlas report", lead: str = "") -> Path:
    """Write one self-contained HTML file and return its path.

    Figures are inline PNG; there is no script, no font and no link that leads elsewhere. All texts are escaped.

    Raises
    ------
    InvalidValueError
        If there is no section, or the folder of `path` does not exist.
    """
    target = Path(path)
    if not sections:
        raise InvalidValueError("a report needs at least one section")
    if not target.parent.is_dir():
        raise InvalidValueError(f"the folder {target.parent} does not exist; make it, or choose another path")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    top = f"<h1>{html.escape(title)}</h1>" + (f'<p class="lead">{html.escape(lead)}</p>' if lead else "")
    body = top + "".join(section.html() for section in sections)
    target.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>', "utf-8")
    return target


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Picture, uint8 (rows, columns, RGB), as PNG.

    Examples
    --------
    >>> png_bytes(np.zeros((2, 2, 3), np.uint8))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png_uri(pixels: NDArray[np.uint8], width: int = 0) -> str:
    """Picture as a ``data:`` address; enlarged by whole pixels to at least `width`, so that it stays sharp.

    Examples
    --------
    >>> png_uri(np.zeros((2, 2, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    factor = max(1, -(-width // pixels.shape[1]))
    sharp = enlarge(pixels, (pixels.shape[0] * factor, pixels.shape[1] * factor)) if factor > 1 else pixels
    return "data:image/png;base64," + base64.b64encode(png_bytes(sharp)).decode("ascii")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return "-" if np.isnan(value) else f"{value:.3g}"
    return str(value)
