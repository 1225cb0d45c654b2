"""Bytes by name: in a folder, in memory, in an object store, behind http, in an archive.

A store's metadata, arrays and bookkeeping are all read and written through a `Storage`; zarr sees one through
`attlas.schemas.storage.zarr_adapter`.
"""

from attlas.schemas.storage.base import Coordinator, Storage
from attlas.schemas.storage.opening import open_storage

__all__ = ["Coordinator", "Storage", "open_storage"]
