"""Locks of a store: one recorder at a time in the table and in a row, also while another one leaves."""

import subprocess
import sys
import threading

from attlas.schemas.claims import Claims


def test_who_waits_while_the_folder_goes_still_holds_the_table_alone(tmp_path):
    first, second, third = (Claims(tmp_path / "s") for _ in range(3))
    entered, leave, late = threading.Event(), threading.Event(), threading.Event()

    def wait():
        with second:
            entered.set()
            leave.wait(10)

    def come_late():
        with third:
            late.set()

    with first:
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.2)
        first.clear()
    assert entered.wait(10)
    coming = threading.Thread(target=come_late)
    coming.start()
    assert not late.wait(0.2), "two recorders hold the table"
    leave.set()
    assert late.wait(10)
    waiting.join()
    coming.join()


CROWD = """
import sys
from pathlib import Path
from attlas.schemas.claims import Claims

path = Path(sys.argv[1])
for _ in range(60):
    claims = Claims(path)
    with claims:
        # Opening fails where another process is inside.
        mark = open(path.with_suffix(".mark"), "x")
        row = next(row for row in range(9) if claims.take(row))
        mark.close()
        path.with_suffix(".mark").unlink()
    held = open(path.with_suffix(f".{row}"), "x")
    held.close()
    path.with_suffix(f".{row}").unlink()
    claims.clear()
"""


def test_recorders_that_come_and_go_never_meet(tmp_path):
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, str(tmp_path / "s")]) for _ in range(3)]
    assert [process.wait() for process in crowd] == [0, 0, 0]
    assert not (tmp_path / "s.locks").exists()


def test_nothing_is_left_and_rows_of_others_stay(tmp_path):
    one, other = Claims(tmp_path / "s"), Claims(tmp_path / "s")
    with one:
        assert one.take(0)
    with other:
        assert not other.take(0)
        assert other.take(1)
    one.clear()
    assert other.holds(1)
    with one:
        assert not one.take(1)
    other.clear()
    one.clear()
    assert not (tmp_path / "s.locks").exists()
    one.clear()
    assert not (tmp_path / "s.locks").exists()
