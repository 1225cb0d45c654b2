"""What a web server's page of a folder names."""

from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

__all__ = ["entries"]


def entries(page: bytes, address: str) -> Iterator[str]:
    """Give the names that a page links to and that lie in its folder; those of folders end with a slash.

    Examples
    --------
    >>> page = b'<a href="../">up</a> <a href="c.0">c.0</a> <a href="text/">text</a> <a href="?sort=size">size</a>'
    >>> list(entries(page, "http://host/x.zarr/"))
    ['c.0', 'text/']
    """
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    here = urlsplit(address)
    folder = here.path if here.path.endswith("/") else here.path + "/"
    seen = set()
    for link in links.found:
        there = urlsplit(urljoin(address, link))
        if there.netloc != here.netloc or there.query or not there.path.startswith(folder):
            continue
        name = unquote(there.path.removeprefix(folder))
        if name and "/" not in name[:-1] and name not in (".", "..", "./", "../", "/") and name not in seen:
            seen.add(name)
            yield name


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
