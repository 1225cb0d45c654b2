"""The harness itself: its faults happen, and what it promises to find it finds."""

import os
import signal

import numpy as np
import pytest
from faults.children import in_child
from faults.evidence import Found, differences, digest
from faults.interrupt import ERRORS, Fault, arm, count


def write(folder, name, content, *, sync=False):
    """Write a file in the way of a careful program."""
    draft = folder / f"{name}.draft"
    with draft.open("wb", buffering=0) as file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        if sync:
            os.fsync(file.fileno())
    draft.rename(folder / name)


def work(folder):
    write(folder, "one", b"1" * 1000, sync=True)
    (folder / "below").mkdir(exist_ok=True)
    (folder / "below").mkdir(exist_ok=True)
    write(folder, "two", b"2" * 1000)
    (folder / "one").unlink()


EXPECTED = [
    "open one.draft",
    "os.fsync one.draft",
    "os.rename one",
    "os.mkdir below",
    "open two.draft",
    "os.rename two",
    "os.remove one",
]


def test_operations_are_seen_in_order_and_those_elsewhere_are_not(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()

    def counted(note):
        count(inside, lambda operation: note(str(operation)))
        work(outside)
        work(inside)
        (inside / "two").read_bytes()

    ended = in_child(counted)
    assert ended.returned, ended.trace
    assert ended.notes == EXPECTED


def test_what_is_named_by_an_open_folder_is_seen(tmp_path):
    def counted(note):
        count(tmp_path, lambda operation: note(str(operation)))
        folder = os.open(tmp_path, os.O_RDONLY)
        (tmp_path / "a").open("w").close()
        os.rename("a", "b", src_dir_fd=folder, dst_dir_fd=folder)
        os.unlink("b", dir_fd=folder)
        os.fsync(folder)

    assert in_child(counted).notes == ["open a", "os.rename b", "os.remove b", "os.fsync ."]


def disturbed(folder, fault):
    def armed(note):
        arm(folder, fault, lambda operation: note(str(operation)))
        work(folder)

    return in_child(armed)


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_a_kill_comes_before_the_operation(tmp_path, number):
    ended = disturbed(tmp_path, Fault("kill", number))
    assert ended.signal == signal.SIGKILL
    assert ended.notes == [EXPECTED[number]]
    left = [("one.draft", 1, 3), ("one", 3, 99), ("below", 4, 99), ("two.draft", 5, 6), ("two", 6, 99)]
    expected = {name for name, first, last in left if first <= number < last}
    assert {path.name for path in tmp_path.iterdir()} == expected


@pytest.mark.parametrize("mode", ERRORS)
@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_an_error_is_raised_by_the_operation(tmp_path, mode, number):
    ended = disturbed(tmp_path, Fault(mode, number))
    assert "OSError" in ended.bases
    assert f"[Errno {ERRORS[mode]}]" in ended.error
    assert ended.notes == [EXPECTED[number]]


def test_a_torn_file_has_its_first_bytes(tmp_path):
    fault = Fault("torn", 4)
    ended = disturbed(tmp_path, fault)
    assert ended.signal == signal.SIGXFSZ
    assert (tmp_path / "two.draft").read_bytes() == b"2" * fault.first_bytes
    assert (tmp_path / "one").stat().st_size == 1000


def test_a_short_write_is_an_error_and_later_ones_are_none(tmp_path):
    fault = Fault("short", 0)

    def armed(note):
        arm(tmp_path, fault, lambda operation: note(str(operation)))
        with pytest.raises(OSError, match="File too large"):
            work(tmp_path)
        (tmp_path / "one.draft").unlink()
        work(tmp_path)

    ended = in_child(armed)
    assert ended.returned, ended.trace
    assert (tmp_path / "two").stat().st_size == 1000


def test_a_full_disk_lets_files_go_and_a_dead_one_nothing(tmp_path):
    def armed(note, mode):
        (tmp_path / "old").touch()
        arm(tmp_path, Fault(mode, 0), lambda operation: note(str(operation)))
        with pytest.raises(OSError, match="injected"):
            work(tmp_path)
        (tmp_path / "old").unlink()

    assert in_child(lambda note: armed(note, "full")).returned
    assert "OSError" in in_child(lambda note: armed(note, "gone")).bases


def test_how_a_process_ends_is_told():
    assert in_child(lambda _: 3).value == 3
    assert in_child(lambda note: note("a")).notes == ["a"]
    ended = in_child(lambda _: np.zeros(3)[4])
    assert ended.bases[0] == "IndexError"
    assert not ended.ours
    assert in_child(lambda _: os.kill(os.getpid(), signal.SIGTERM)).signal == signal.SIGTERM
    assert in_child(lambda _: os._exit(3)).error == "left with status 3"
    assert in_child(lambda _: signal.pause(), limit=0.2).hung
    assert "here" in in_child(lambda _: print("here")).printed  # noqa: T201 - what it prints is the question


def test_any_bit_makes_another_digest():
    values = np.zeros(3, "f4")
    assert digest(values) == digest(values.copy())
    others = [values.astype("f8"), values[None], -values, np.array(["0", "0", "0"], object)]
    assert len({digest(values), *map(digest, others)}) == 5


def test_differences_are_named():
    right = Found({"a": {"x": "1", "y": "2"}, "b": {"x": "3", "y": "4"}}, {"t": "5"})
    wrong = Found({"a": {"x": "1"}, "c": {"x": "3"}}, {"t": "6"})
    assert differences(right, right) == []
    assert differences(Found({"a": right.runs["a"]}), right, {}) == []
    assert len(differences(Found({"a": right.runs["a"]}), right)) == 2
    given = Found({"a": {"annotations/cat": "1", "annotations/dog": "2"}})
    without = Found({"a": {"annotations/cat": "1"}})
    assert differences(without, given, {"a": ["annotations/cat"]}) == []
    assert len(differences(without, given, {"a": ["annotations/cat", "annotations/dog"]})) == 1
    told = "\n".join(differences(wrong, right))
    for part in ("run 'b' is missing", "y of run 'a': missing", "run 'c' is none", "t: 6; undisturbed 5"):
        assert part in told
