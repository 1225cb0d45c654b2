"""The browser's address bar: holds the state, so that a view can be kept as a bookmark and gone back to."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import panel as pn
import param

__all__ = ["AddressBar", "from_search", "to_search"]


def from_search(search: str) -> dict[str, str]:
    """Parameters of an address such as ``?run=0001&row=3``; of a repeated one the last counts.

    Examples
    --------
    >>> from_search("?run=0001&word=red%20disc")
    {'run': '0001', 'word': 'red disc'}
    """
    return dict(parse_qsl(search.removeprefix("?"), keep_blank_values=True))


def to_search(address: Mapping[str, str]) -> str:
    """Address of parameters, from ``?`` on.

    Examples
    --------
    >>> to_search({"run": "0001", "word": "red disc"})
    '?run=0001&word=red+disc'
    """
    return "?" + urlencode(address)


class AddressBar(pn.custom.JSComponent):  # type: ignore[misc]  # panel has no types
    """Writes ``search`` to the address bar and reads it when a person goes back or forth.

    Panel's own location adds an entry to the history for every change and does not notice when one goes back.
    """

    search = param.String(default="", doc="what stands in the address bar, from ? on")
    visited = param.String(default="", doc="address that a person went back or forth to")
    step = param.Boolean(default=False, doc="whether the last change is one to go back from")

    _esm = """
export function render({ model, el }) {
  let first = true
  model.on("search", () => {
    if (model.search === window.location.search) return
    const write = model.step && !first ? "pushState" : "replaceState"
    first = false
    window.history[write]({}, "", window.location.pathname + model.search)
  })
  window.addEventListener("popstate", () => { model.visited = window.location.search })
  el.style.display = "none"
  return document.createElement("span")
}
"""
