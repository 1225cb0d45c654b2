"""The look of the pages: one sheet of style, system fonts, nothing that is loaded from elsewhere."""

import html
from typing import Any

import panel as pn

__all__ = ["BUTTONS", "PAGE_STYLE", "SHEET", "card", "say", "text"]

PAGE_STYLE = """
body { background: #f3f4f6; margin: 0; }
"""
"""For the page itself; it does not reach into Panel's components, which have roots of their own."""

SHEET = """
:host { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2937; }
:host(.attlas-card) { background: #fff; border: 1px solid #e5e7eb; border-radius: 10px; padding: 14px 18px 18px;
  box-sizing: border-box; }
.attlas-label { font-size: 12px; color: #6b7280; }
.attlas-muted { font-size: 12px; color: #6b7280; }
.attlas-name { font-size: 19px; font-weight: 650; letter-spacing: -0.01em; }
.attlas-readout { font-size: 14px; font-variant-numeric: tabular-nums; }
.attlas-notice { font-size: 14px; background: #fef3c7; border: 1px solid #fcd34d; color: #78350f;
  border-radius: 8px; padding: 8px 12px; box-sizing: border-box; overflow-wrap: anywhere; }
.attlas-code { font: 12.5px/1.55 ui-monospace, "DejaVu Sans Mono", monospace; background: #f9fafb;
  border: 1px solid #e5e7eb; border-radius: 8px; padding: 10px 12px; margin: 0;
  white-space: pre-wrap; user-select: all; }
"""
"""For each of our components, inside its own root; ``:host(.class)`` is a component itself."""


BUTTONS = """
:host .bk-btn-group { display: flex; flex-wrap: wrap; gap: 4px; }
:host .bk-btn { font-size: 12.5px; line-height: 18px; padding: 4px 10px !important; margin: 0; flex: 0 1 auto;
  border: 1px solid #d1d5db !important; border-radius: 6px !important; background: #fff !important; color: #1f2937;
  box-shadow: none !important; }
:host .bk-btn a { color: inherit; text-decoration: none; padding: 0; }
:host .bk-btn:hover { border-color: #2563eb !important; color: #1d4ed8; }
:host .bk-btn.bk-active { background: #2563eb !important; border-color: #2563eb !important; color: #fff !important; }
:host .bk-btn[disabled] { opacity: 0.45; }
"""
"""For Panel's buttons: flat, and as wide as their text."""


def text(css_class: str, words: str = "", **params: Any) -> Any:
    """Make a component of plain text, in an element of class `css_class`; markup in `words` is shown as it is.

    Examples
    --------
    >>> text("attlas-label", "<b>").object
    '<div class="attlas-label">&lt;b&gt;</div>'
    """
    component = pn.pane.HTML("", stylesheets=[SHEET], tags=[css_class], **{"margin": 0, **params})
    say(component, words)
    return component


def say(component: Any, words: str) -> None:
    """Change the text of a component made by `text`; without words it is hidden."""
    safe = html.escape(words).replace("\n", "<br>")
    component.object = f'<div class="{component.tags[0]}">{safe}</div>'
    component.visible = bool(words)


def card(*pieces: Any, **params: Any) -> Any:
    """Pieces below each other on a white card."""
    return pn.Column(*pieces, css_classes=["attlas-card"], stylesheets=[SHEET], **params)
