"""The dashboard as a server that only this machine can reach."""

import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import panel as pn

from attlas.dashboards.app import page
from attlas.dashboards.shelf import find_stores
from attlas.schemas.errors import InvalidValueError, StoreNotFoundError

__all__ = ["DEFAULT_PORT", "make_server", "serve"]

DEFAULT_PORT = 5006
HOST = "127.0.0.1"


def make_server(stores: Iterable[str | Path], *, port: int = DEFAULT_PORT) -> tuple[str, Any]:
    """Return the page's URL and a server that does not answer yet (bokeh's; ``start`` and ``io_loop`` are its own).

    Parameters
    ----------
    stores
        Stores, folders of stores, URLs.
    port
        Port on localhost; 0 takes a free one.

    Raises
    ------
    StoreNotFoundError
        If no store is found; the message names what was looked at.
    InvalidValueError
        If the port is taken or out of range.
    """
    listed = [str(store) for store in stores]
    found, problems = find_stores(listed)
    if not found:
        shown = "\n".join(f"  {problem}" for problem in problems) or "  no path was given"
        raise StoreNotFoundError(f"no store to show:\n{shown}")
    free = _free(port)
    # Pages of other origins must not talk to the server: exactly these two may.
    origins = [f"localhost:{free}", f"{HOST}:{free}"]
    server = pn.io.server.get_server(
        page(listed), address=HOST, port=free, websocket_origin=origins, title="attlas", show=False, start=False
    )
    return f"http://localhost:{free}", server


def serve(
    stores: Iterable[str | Path],
    *,
    port: int = DEFAULT_PORT,
    show: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the dashboard until it is interrupted.

    Parameters and errors are those of `make_server`; ``show`` opens the page in the default browser, and
    ``announce`` is called with the URL once the server answers.
    """
    url, server = make_server(stores, port=port)
    server.start()
    announce(url)
    if show:
        server.io_loop.add_callback(server.show, "/")
    server.io_loop.start()


def _free(port: int) -> int:
    """Return the port, or a free one for 0; refuse one that is taken before anything else is set up."""
    if not 0 <= port <= 65535:
        raise InvalidValueError(f"port {port} is out of range; 0 to 65535 is accepted")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as err:
            if err.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise InvalidValueError(f"port {port} is taken; choose another by --port, or 0 for a free one") from err
        return int(probe.getsockname()[1])
