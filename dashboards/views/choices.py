"""Pictures and words to choose from, as buttons of the browser's own: their text is set as text, never as markup."""

from typing import ClassVar

import panel as pn
import param

__all__ = ["RunGallery", "WordLine"]

_BUTTON = """
:host { display: block; width: 100%; }
button { font: inherit; color: inherit; border: 1px solid transparent; background: none; cursor: pointer; padding: 0; }
button:focus-visible { outline: 2px solid #2563eb; outline-offset: 1px; }
"""

_DRAW = """
export function render({ model, el }) {
  const box = document.createElement("div")
  box.className = "choices"
  const draw = () => {
    box.replaceChildren(...model.items.map((item) => {
      if (item.id === null) {
        const rest = document.createElement("span")
        rest.textContent = item.text
        return rest
      }
      const button = document.createElement("button")
      button.type = "button"
      button.dataset.id = item.id
      button.setAttribute("aria-pressed", String(item.id === model.value))
      if (item.source) {
        const picture = document.createElement("img")
        picture.src = item.source
        picture.alt = ""
        button.append(picture)
      }
      const label = document.createElement("span")
      label.textContent = item.text
      button.append(label)
      button.title = item.title ?? item.text
      button.onclick = () => { model.value = item.id }
      return button
    }))
  }
  model.on(["items", "value"], draw)
  draw()
  return box
}
"""


class _Choices(pn.custom.JSComponent):  # type: ignore[misc]  # panel has no types
    """Items ``{id, text, title, source}``; ``id`` None is plain text, ``source`` a picture's data address."""

    items = param.List(default=[], doc="what can be chosen, in order")
    value = param.String(default="", doc="id of the chosen item; empty if none is")

    _esm = _DRAW


class RunGallery(_Choices):
    """Runs as small pictures with their labels."""

    _stylesheets: ClassVar[list[str]] = [
        _BUTTON
        + """
.choices { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
button { padding: 3px 3px 1px; border-radius: 6px; text-align: center; overflow: hidden; }
button img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 4px; background: #e5e7eb; }
button span { font-size: 11px; line-height: 17px; color: #6b7280; display: block; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
button:hover { border-color: #cbd5e1; }
button[aria-pressed=true] { border-color: #2563eb; background: #eff6ff; }
button[aria-pressed=true] span { color: #1d4ed8; font-weight: 600; }
"""
    ]


class WordLine(_Choices):
    """The prompt as running text whose words are buttons."""

    _stylesheets: ClassVar[list[str]] = [
        _BUTTON
        + """
.choices { font-size: 15px; line-height: 32px; overflow-wrap: anywhere; white-space: pre-wrap; color: #6b7280; }
button { padding: 1px 8px; border-radius: 6px; border-color: #d1d5db; background: #fff; color: #1f2937;
  line-height: 22px; }
button:hover { border-color: #2563eb; color: #1d4ed8; }
button[aria-pressed=true] { border-color: #2563eb; background: #2563eb; color: #fff; }
"""
    ]
