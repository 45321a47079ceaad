"""Atomic writing: whole or not at all."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from irn_cli.errors import Code, OutputError
from irn_cli.files import atomic_write, lock, require_writable


def test_a_file_appears_whole_with_public_permissions(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a b\n.txt"
    with atomic_write(target) as stream:
        stream.write(b"1")
        assert not target.exists()
    assert target.read_bytes() == b"1"
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert target.stat().st_mode == ordinary.stat().st_mode
    assert [entry.name for entry in target.parent.iterdir()] == [target.name]


def test_other_threads_never_see_another_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: a file that another thread makes meanwhile would be private, or every one after it."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
    with atomic_write(tmp_path / "a.txt") as stream:
        stream.write(b"1")


def test_the_bytes_are_on_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sync = tmp_path / "a.txt", os.fsync
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda number: (there.append(target.exists()), sync(number)))
    with atomic_write(target) as stream:
        stream.write(b"1")
    assert there == [False]
    assert target.exists()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target, overwrite=True) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(OutputError, match="exists already"), atomic_write(target):
        pass
    assert target.read_text() == "old"
    with atomic_write(target, overwrite=True) as stream:
        stream.write(b"new")
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(OutputError, match="exists already"), atomic_write(target) as stream:
        stream.write(b"mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_where_there_are_no_hard_links_a_file_is_put_in_place_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> Callable[..., None]:
        def link(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return link

    monkeypatch.setattr(os, "link", refuse(errno.EPERM))  # what FAT says
    with atomic_write(tmp_path / "a.txt") as stream:
        stream.write(b"whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    with pytest.raises(OutputError, match="exists already"), atomic_write(tmp_path / "c.txt") as stream:
        (tmp_path / "c.txt").write_text("theirs")
    assert (tmp_path / "c.txt").read_text() == "theirs"
    (tmp_path / "c.txt").unlink()
    monkeypatch.setattr(os, "link", refuse(errno.EIO))
    with (
        pytest.raises(OutputError, match=r"cannot write .*b\.txt: Input/output error"),
        atomic_write(tmp_path / "b.txt"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), atomic_write(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(OutputError, match="is a directory"), atomic_write(tmp_path, overwrite=True):
        pass


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Nor a link to an open stream, as /dev/stdout is one."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "stream").symlink_to("/proc/self/fd/0")
    for name in ("pipe", "link", "stream"):
        for attempt in (require_writable, lambda path, **options: atomic_write(path, **options).__enter__()):
            with pytest.raises(OutputError, match="it is a device, a pipe or a socket, not a file"):
                attempt(tmp_path / name, overwrite=True)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "stream"]


def test_checking_a_place_beforehand_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "deep" / "a.txt")
    require_writable(tmp_path / "file", overwrite=True)
    for path, message in [
        ("file", "exists already"),
        ("file/a.txt", "file is not a directory"),
        (".", "is a directory"),
    ]:
        with pytest.raises(OutputError, match=message):
            require_writable(tmp_path / path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    for target in (tmp_path / ("x" * 256), tmp_path / ("x" * 256) / "a.txt"):
        with pytest.raises(OutputError, match=r"cannot write .*: File name too long"):
            require_writable(target)
        with pytest.raises(OutputError, match=r"cannot write .*: File name too long"), atomic_write(target):
            pass
    assert not list(tmp_path.iterdir())


def test_a_link_that_leads_to_itself_is_a_file_that_exists(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for check in (require_writable, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(OutputError, match="exists already") as caught:
            check(loop)
        assert caught.value.code == Code.EXISTS
    with pytest.raises(OutputError, match="Too many levels of symbolic links"):
        require_writable(loop / "a.txt")


KILLED = """
import sys
from pathlib import Path
from irn_cli.files import atomic_write
with atomic_write(Path(sys.argv[1]) / "a.txt") as stream:
    stream.write(b"half")
    stream.flush()
    print(Path(stream.name).name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_by_the_next_and_no_one_elses(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    left = [writer.stdout.readline().decode().strip() for writer in writers]
    writers[1].kill()
    writers[1].communicate()
    others = tmp_path / ".irn-elsewhere-0.part", tmp_path / ".irn-elsewhere-1.part"
    for other in others:
        other.touch()
    os.utime(others[1], (0, 0))
    assert {path.name for path in tmp_path.iterdir()} == {*(other.name for other in others), *left}
    with atomic_write(tmp_path / "b.txt"):
        pass
    kept = {path.name for path in tmp_path.iterdir()} - {"b.txt"}
    assert len(kept) == 2  # of this machine, what is still being written; of others, what may be
    assert others[0].name in kept
    writers[0].communicate(timeout=60)  # goes on, and is whole
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt", others[0].name}
    assert (tmp_path / "a.txt").read_bytes() == b"half"


def test_who_sweeps_at_the_wrong_moment_takes_no_file_from_who_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking, a temporary file looks like one that was left."""
    real, swept = fcntl.flock, []

    def sweep_first(lock: int, operation: int) -> None:
        if not swept:
            swept.extend(tmp_path.glob(".irn-*.part"))
            swept[0].unlink()
        real(lock, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with atomic_write(tmp_path / "a.txt") as stream:
        stream.write(b"whole")
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_a_lock_lasts_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as first, path.open("ab") as second, path.open("rb") as third:
        assert lock(first)
        assert not lock(second)
        assert not lock(second, shared=True)
        first.close()
        assert lock(second, shared=True)
        assert lock(third, shared=True)
        assert not lock(second)


def test_where_there_are_no_locks_everyone_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with (tmp_path / "log").open("ab") as stream:
        monkeypatch.setattr("irn_cli.files.fcntl.flock", unknown)
        assert lock(stream)
        monkeypatch.setattr("irn_cli.files.fcntl", None)
        assert lock(stream)
