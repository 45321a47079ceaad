"""The files that a command line means."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from irn_cli.errors import InputError, UsageError
from irn_cli.inputs import STREAM, find_pictures, parse_shard, read_list, walk


@pytest.fixture(autouse=True)
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/x/b.PNG", "in/x/y/c.png", "in/.hidden/d.png", "in/x/.e.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(name)
    Path("in/f.heic").touch()
    Path("in/notes.txt").touch()


def test_a_directory_is_searched_to_the_bottom() -> None:
    found = find_pictures(["in"])
    assert [str(source.path) for source in found] == ["in/a.png", "in/f.heic", "in/x/b.PNG", "in/x/y/c.png"]
    assert [str(source.place) for source in found] == [".", ".", "x", "x/y"]
    assert not any(source.named for source in found)
    assert found[0].header
    assert found[0].header.size == (2, 3)
    assert found[1].header is None
    assert list(walk(Path("in"))) == [source.path for source in found]


def test_named_files_lie_relative_to_what_holds_all_of_them() -> None:
    found = find_pictures(["in/x/y/c.png"], ["in/a.png", "in/x/y/c.png"])
    assert [(str(source.path), str(source.place)) for source in found] == [("in/x/y/c.png", "x/y"), ("in/a.png", ".")]
    assert all(source.named for source in found)
    (stream,) = find_pictures(["-"])
    assert (stream.path, stream.named) == (STREAM, True)


def test_patterns_are_mirrored_from_their_first_wildcard() -> None:
    found = find_pictures(["in/**/*.png"])
    assert [(str(source.path), str(source.place)) for source in found] == [("in/a.png", "."), ("in/x/y/c.png", "x/y")]


@pytest.mark.parametrize("pattern", ["in/a**.png", "i**/**a.png", "in/***.png", "**/a.png"])
def test_two_asterisks_within_a_name_are_one(pattern: str) -> None:
    assert [str(source.path) for source in find_pictures([pattern])] == ["in/a.png"]


def test_what_a_list_cannot_name_is_told() -> None:
    found = find_pictures(["in/a.png"], ["in/x", "-"])
    assert {str(source.path): source.missing for source in found if source.missing} == {
        "in/x": "in/x is a directory: a list names files",
        "-": "a list names files, not standard input",
    }


def test_an_open_pipe_is_no_broken_link() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(InputError, match=f"/dev/fd/{reader} is neither a file nor a directory"):
            find_pictures([f"/dev/fd/{reader}"])
    finally:
        os.close(reader)
        os.close(writer)


def test_what_is_not_there_is_found_with_its_reason() -> None:
    found = find_pictures(["in/a.png", "none.png", "in/*.jpg", "in/.hidden/..", ""])
    missing = {str(source.path): source.missing for source in found if source.missing}
    assert missing == {
        "none.png": "no such file or directory: none.png",
        "in/*.jpg": "no file matches in/*.jpg",
        ".": "no such file or directory: ",
    }
    with pytest.raises(InputError, match=r"no such file or directory: none\.png"):
        find_pictures(["none.png"])


def test_links_that_lead_nowhere_are_told() -> None:
    Path("in/dangling.png").symlink_to("none.png")
    Path("in/x/loop.png").symlink_to("loop.png")
    Path("in/linked").symlink_to("x")
    found = find_pictures(["in"], ["in/x/loop.png", "in/x/y/../loop.png"])
    assert {str(source.path): source.missing for source in found if source.missing} == {
        "in/dangling.png": "in/dangling.png is a link that leads nowhere",
        "in/x/loop.png": "in/x/loop.png is a link that leads nowhere",
    }
    assert len(found) == 6
    assert [source.path.name for source in find_pictures(["in/*.png"]) if source.missing] == ["dangling.png"]
    with pytest.raises(InputError, match=r"in/dangling\.png is a link that leads nowhere"):
        find_pictures(["in/dangling.png"])


def test_a_file_is_found_once_however_it_is_spelled() -> None:
    spellings = ["in/x/../a.png", str(Path("in/a.png").absolute()), "in/a.png"]
    assert [source.path for source in find_pictures(spellings)] == [Path("in/x/../a.png")]
    assert [source.path for source in find_pictures(["in/x", *spellings])] == [
        Path("in/x/b.PNG"), Path("in/x/y/c.png"), Path("in/x/../a.png")
    ]  # fmt: skip
    assert len(find_pictures(["in", *spellings])) == 4
    Path("in/link.png").symlink_to("a.png")  # another name, and so another result
    assert len(find_pictures(["in", "in/link.png"])) == 5


def test_names_that_cannot_be_looked_up_do_not_stop_the_rest() -> None:
    long = "x" * 300
    found = find_pictures([f"in/{long}.png", "in/a.png"], ["b.png\0c.png\0", f"in/{long}.jpg"])
    assert found[0].path == Path("in/a.png")
    missing = {str(source.path): source.missing for source in found if source.missing}
    assert missing[f"in/{long}.png"].endswith(": File name too long")
    assert "-0 reads lists" in missing[r"b.png\x00c.png\x00"]
    assert next(source for source in found if source.path.suffix == ".jpg").header is None


def test_a_directory_that_may_not_be_listed_is_an_input_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, scandir: Callable[[Path], object] = os.scandir) -> object:
        if path.name == "y":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = find_pictures(["in"])[-1]
    assert (str(source.path), source.missing) == ("in/x/y", "cannot read in/x/y: Permission denied")


def test_a_tree_deeper_than_pythons_stack_is_searched(tmp_path: Path) -> None:
    deepest = tmp_path / "deep"
    deepest.mkdir()
    for _ in range(1200):
        deepest /= "d"
        deepest.mkdir()
    Path("in/a.png").rename(deepest / "a.png")
    assert list(walk(tmp_path / "deep")) == [deepest / "a.png"]
    (source,) = find_pictures(["deep"])
    assert source.header
    while deepest != tmp_path:  # pytest's own way of removing it would exceed the stack
        for path in deepest.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        deepest = deepest.parent


def test_lists() -> None:
    assert read_list(io.BytesIO(b"a b.png\r\n\n\xff.png"), zeros=False) == ["a b.png", os.fsdecode(b"\xff.png")]
    assert read_list(io.BytesIO(b"a\n.png\0b\0"), zeros=True) == ["a\n.png", "b"]


def test_shards() -> None:
    assert parse_shard("2/3", {}) == (2, 3)
    tasks = {"ID": "14", "MIN": "10", "STEP": "2", "COUNT": "3"}
    assert parse_shard("slurm", {f"SLURM_ARRAY_TASK_{name}": value for name, value in tasks.items()}) == (3, 3)
    for wrong in ("0/3", "4/3", "3", "a/b", "slurm"):
        with pytest.raises(UsageError, match="--shard"):
            parse_shard(wrong, {})


def test_formats_that_irn_does_not_read_are_in_a_data_set_to_be_named(tmp_path: Path) -> None:
    from irn_cli.evaluation.dataset import find_data_set

    (tmp_path / "set").mkdir()
    for name in ("a.png", "b.HEIC", "c.dng", "d.txt"):
        (tmp_path / "set" / name).touch()
    assert [path.name for path in find_data_set(tmp_path / "set").pictures] == ["a.png", "b.HEIC", "c.dng"]
