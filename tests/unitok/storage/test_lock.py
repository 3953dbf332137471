"""One writer of a folder at a time: the second is refused and told who holds it, and the lock ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from unitok.storage.lock import LOCK, only_writer
from unitok.storage.whole import BusyError

HOLD = """
import sys
from unitok.storage.lock import only_writer
with only_writer("hold", sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_with_the_holder_named(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    message = rf"^fit: {tmp_path} must be free to write to, got process {holder.pid} on .*, there since .*\. Wait until"
    with pytest.raises(BusyError, match=message), only_writer("fit", tmp_path):
        pass
    holder.communicate("")
    with only_writer("fit", tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with only_writer("fit", tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_short_work_waits_for_another(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    threading.Timer(0.5, lambda: holder.stdin.close()).start()
    with only_writer("save", tmp_path, wait=30):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()


def test_a_thread_may_take_it_again_and_another_may_not(tmp_path: Path) -> None:
    said: list[str] = []

    def try_it() -> None:
        try:
            with only_writer("fit", tmp_path):
                said.append("held")
        except BusyError as error:
            said.append(str(error))

    with only_writer("fit", tmp_path):
        with only_writer("save", tmp_path / "." / ""):
            pass
        assert (tmp_path / LOCK).exists()
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
    assert said[0].startswith("fit: ")
    assert f"process {os.getpid()} on" in said[0]
    try_it()
    assert said[1] == "held"


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer("fit", tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a" / "b").exists()
    with only_writer("fit", tmp_path / "c"):
        (tmp_path / "c" / "result").write_text("")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["result"]


def test_many_that_come_at_once_hold_it_one_after_another(tmp_path: Path) -> None:
    """The lock file goes with each release: whoever had it open already must not take the dead one for the lock."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with only_writer("work", tmp_path, wait=60):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list(tmp_path.iterdir()) == []
