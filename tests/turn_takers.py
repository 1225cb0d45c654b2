"""What processes of their own do in tests of turns."""

import time

from attlas.schemas.storage.object_storage import ObjectStorage
from attlas.schemas.storage.patience import Patience

PATIENCE = Patience(5, 5, 0.01, 0.1)


def storage_at(url, lease=2.0):
    return ObjectStorage(url, patience=PATIENCE, lease=lease)


def count(storage, turns, times):
    for _ in range(times):
        with turns.turn() as mine:
            assert mine
            storage.put("count", str(int(storage.get("count") or b"0") + 1).encode())


def count_ten(url):
    storage = storage_at(url)
    count(storage, storage.coordinator(), 10)


def take_and_stay(url, ready):
    turns = storage_at(url, lease=600).coordinator()
    name = turns.join()
    with turns.turn():
        ready.put(name)
        time.sleep(60)


def take_and_end(url):
    turns = storage_at(url, lease=600).coordinator()
    turns.join()
    turns.turn().__enter__()
