"""A place of stores that is reached by URL only and lives in this process: ``far://bucket/runs/a.zarr``."""

from attlas.schemas.storage.memory import MemoryStorage

PLACES = {}
OPENED = []
"""Every URL that was opened, as it came."""


class FarMemory(MemoryStorage):
    """What lies at one URL."""

    def children(self, prefix=""):
        """Names below the URL, which may be those of stores."""
        start = "/".join(part for part in (self.url, prefix.strip("/")) if part) + "/"
        return sorted({url.removeprefix(start).split("/")[0] for url in PLACES if url.startswith(start)})

    def __reduce__(self):
        return (open_far, (self.url,))


def open_far(url):
    """Return what lies at `url`, the same each time."""
    OPENED.append(url)
    if url not in PLACES:
        made = FarMemory(url)
        if not url.endswith(".zarr"):
            return made
        PLACES[url] = made
    return PLACES[url]
