"""The one writer: killed or failing at any step it leaves the old or the new, for readers of any moment."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.unitok.storage import killed
from unitok.storage import whole
from unitok.storage.whole import BusyError, current, whole_file, whole_files, whole_read

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".unitok-")]


@pytest.mark.parametrize("kind", ["file", "files"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unitok.storage.killed", str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines()]
    found = [state for _, _, state in steps]
    assert found == sorted(found, reverse=True)  # old before one step, new from it on
    assert {"old", "new"} == set(found)
    calls = {call for _, call, _ in steps}
    assert calls >= ({"mkdir", "chmod", "fsync"} | ({"replace"} if kind == "file" else {"rename", "link", "unlink"}))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["file", "files"])
def test_an_error_at_any_step_leaves_the_old_or_the_new(kind: str, error: BaseException, tmp_path: Path) -> None:
    write, read = (killed.write_file, killed.read_file) if kind == "file" else (killed.write_files, killed.read_files)

    def fail(_: str) -> None:
        raise error

    step, found = 0, []
    while True:
        place = tmp_path / str(step)
        write(place, killed.OLD)
        old = read(place)
        try:
            went_on = killed.interrupted(lambda place=place: write(place, killed.NEW), step, fail)  # type: ignore[misc]
        except type(error):
            went_on = True
        found.append(read(place))
        write(place, killed.NEW)
        assert not hidden(place)
        if not went_on:
            break
        step += 1
    new = read(place)
    assert old in found
    assert found[-1] == new
    assert all(each in (old, new) for each in found)


@pytest.mark.parametrize("kind", ["file", "files"])
def test_every_file_is_synced_before_it_takes_a_place_and_folders_after(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = "replace" if kind == "file" else "rename"
    kept, events = getattr(os, rename), []

    def renamed(*args: object) -> None:
        events.append("renamed")
        kept(*args)

    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, rename, renamed)
    (killed.write_file if kind == "file" else killed.write_files)(tmp_path, killed.NEW)
    first = events.index("renamed")
    written = {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}
    assert written
    assert written <= set(events[:first])
    assert tmp_path.stat().st_ino in events[first:]


def test_a_folder_without_links_is_settled_by_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for files in (killed.OLD, killed.NEW):
        killed.write_files(tmp_path, files)
        assert killed.read_files(tmp_path) == files
        assert killed.names(tmp_path) == sorted(files)


def test_a_folder_without_locks_is_written_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "fcntl", None)
    killed.write_files(tmp_path, killed.OLD)
    killed.write_files(tmp_path, killed.NEW)
    assert killed.read_files(tmp_path) == killed.NEW
    assert killed.names(tmp_path) == sorted(killed.NEW)


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    (tmp_path / ".unitok-partial-left").mkdir()
    (tmp_path / ".unitok-partial-left" / "half").write_text("half")
    with whole_file(tmp_path / "a") as first:
        assert not (tmp_path / ".unitok-partial-left").exists()
        first.write_text("first")
        with whole_file(tmp_path / "a") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert (tmp_path / "a").read_text() == "first"
    assert not hidden(tmp_path)


def test_readers_and_writers_of_one_folder_never_meet_a_mix(tmp_path: Path) -> None:
    contents = ["0" * 9, "1" * 9000, "2" * 90]

    def write(content: str) -> None:
        with whole_files(tmp_path) as staging:
            for name in ("a", "b", "c"):
                (staging / name).write_text(content)

    def read(base: Path) -> set[str]:
        return {(base / name).read_text() for name in ("a", "b", "c")}

    write(contents[0])
    stop, wrong = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            with contextlib.suppress(BusyError):
                if len(found := whole_read(tmp_path, ("a",), read)) != 1:
                    wrong.append(found)

    readers = [threading.Thread(target=look) for _ in range(3)]
    writers = [threading.Thread(target=lambda c=c: [write(c) for _ in range(25)]) for c in contents]  # type: ignore[misc]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert not hidden(tmp_path)
    assert len(read(tmp_path)) == 1


def test_a_reader_reads_again_what_was_replaced_meanwhile(tmp_path: Path) -> None:
    killed.write_files(tmp_path, killed.OLD)
    tries: list[str] = []

    def read(base: Path) -> str:
        tries.append((base / "a.bin").read_text())
        if len(tries) == 1:
            killed.write_files(tmp_path, killed.NEW)
            raise ValueError("a mix")
        return tries[-1]

    assert whole_read(tmp_path, ("a.bin",), read) == "new a"
    assert tries == ["old a", "new a"]
    with pytest.raises(ZeroDivisionError):  # what is wrong with files that nobody replaced is said at once
        whole_read(tmp_path, ("a.bin",), lambda _: 1 / 0)

    def restless(_: Path) -> None:
        killed.write_files(tmp_path, killed.OLD)

    with pytest.raises(OSError, match="must stay while they are read"):
        whole_read(tmp_path, ("a.bin",), restless)


def test_a_set_that_was_not_settled_is_read_without_a_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.write_files(tmp_path, killed.OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _refuse)
        with pytest.raises(OSError, match="read-only"):
            killed.write_files(tmp_path, killed.NEW)
    assert current(tmp_path) != tmp_path
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _refuse)
        assert killed.read_files(tmp_path) == killed.NEW
    assert current(tmp_path) != tmp_path
    assert killed.read_files(tmp_path) == killed.NEW  # and with one it is settled
    assert current(tmp_path) == tmp_path
    assert killed.names(tmp_path) == sorted(killed.NEW)


def _refuse(*_: object) -> None:
    raise OSError(30, "read-only file system")


def test_what_is_dropped_stays_within_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    folder = tmp_path / "folder"
    killed.write_files(folder, killed.OLD)
    with whole_files(folder, drop=["../outside", str(tmp_path / "outside"), "a.bin", "sub"]) as staging:
        (staging / "d").write_text("d")
    assert (tmp_path / "outside").read_text() == "kept"
    assert killed.names(folder) == ["b.bin", "d", "gone.bin", "sub/c.bin"]


def test_errors_name_the_output_and_nothing_hidden(tmp_path: Path) -> None:
    for target in (tmp_path / "nowhere" / "a", tmp_path / "a"):
        with pytest.raises(OSError, match=r"a'$") as caught, whole_file(target):  # nothing was written
            pass
        assert caught.value.filename == str(target)
    said = rf"^{tmp_path / 'a'}: the output must be writable, got disk full\. "
    with pytest.raises(OSError, match=said), whole_file(tmp_path / "a"):
        raise SafetensorError("disk full")
    with pytest.raises(OSError, match="must be a file, got a folder or a device"), whole_file(tmp_path):
        pass
    with pytest.raises(OSError, match="must be a file, got a folder or a device"), whole_file("/dev/null"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    with whole_file(tmp_path / "link") as partial:
        partial.write_text("there")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "there"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_permissions_are_those_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        killed.write_files(tmp_path / "files", killed.NEW)  # which makes its files 0600, as safetensors does
        killed.write_file(tmp_path / "file", killed.NEW)
    finally:
        os.umask(before)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == len(killed.NEW) + 1
    assert {mode(path) for path in written} == {0o666 & ~umask}
    assert mode(tmp_path / "files" / "sub") == 0o777 & ~umask


@pytest.mark.parametrize("layout", ["strided", "transposed", "sliced", "shared", "expanded", "empty", "number"])
def test_tensors_of_every_layout_come_back(layout: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from unitok.storage.tensors import saveable, write_tensors

    base = torch.arange(24.0).reshape(4, 6)
    makers: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "strided": lambda: {"a": base[:, ::2], "b": base[::2]},
        "transposed": lambda: {"a": base.t(), "b": base.T[1:]},
        "sliced": lambda: {"a": base[1:3], "b": base[3:]},
        "shared": lambda: {"a": base, "b": base, "c": base.view(6, 4), "d": base[0]},
        "expanded": lambda: {"a": base[:1].expand(5, -1)},
        "empty": lambda: {"a": base[:0], "b": base[:0]},
        "number": lambda: {"a": torch.tensor(3), "b": torch.nn.Parameter(base.bfloat16())},
    }
    tensors = makers[layout]()
    with whole_file(tmp_path / "t.safetensors") as partial:
        write_tensors(partial, tensors)
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())
    plain = {"a": torch.zeros(3)}
    assert saveable(plain)["a"].data_ptr() == plain["a"].data_ptr()  # no needless copy
