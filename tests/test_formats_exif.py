"""EXIF data with its orientation and thumbnail taken out, and nothing else touched."""

import io
import struct

import pytest
from PIL import Image

from irn_cli.formats.exif import upright


def make(order: str, orientation: int | None = 6, thumbnail: bytes = b"") -> bytes:
    """EXIF with a maker's text that points into it, and maybe a thumbnail behind all else."""
    entries = [(0x010F, 2, 8, 100)] + ([(0x0112, 3, 1, orientation)] if orientation is not None else [])
    data = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack(order + "HHI", tag, kind, count)
        data += struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
    data += struct.pack(order + "I", 120 if thumbnail else 0)
    data = data.ljust(100, b"\xee") + b"Maker 1\0"
    if thumbnail:
        data = data.ljust(120, b"\xee") + struct.pack(order + "H", 2)
        for tag, value in ((0x0201, 160), (0x0202, len(thumbnail))):
            data += struct.pack(order + "HHII", tag, 4, 1, value)
        data = data.ljust(160, b"\xee") + thumbnail
    return data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_becomes_1_and_all_else_stays(order: str, prefix: bytes, orientation: int) -> None:
    data = make(order, orientation)
    found, kept = upright(prefix + data)
    assert found == orientation
    assert kept == b"Exif\0\0" + make(order, 1)
    exif = Image.Exif()
    exif.load(kept)
    assert (exif[0x0112], exif[0x010F]) == (1, "Maker 1")


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_there_is_not_is_none(orientation: int) -> None:
    assert upright(make("<", orientation))[0] == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_at_the_end_is_cut_off(order: str) -> None:
    found, kept = upright(make(order, 3, b"a tiny JPEG"))
    assert found == 3
    assert kept is not None
    assert b"a tiny JPEG" not in kept
    assert kept.index(b"Maker 1") == 100 + len(b"Exif\0\0")  # where the maker's text is pointed to


def test_a_thumbnail_with_something_behind_it_is_blanked() -> None:
    _, kept = upright(make("<", 3, b"a tiny JPEG") + b"and more")
    assert kept is not None
    assert kept.endswith(bytes(len(b"a tiny JPEG")) + b"and more")


def test_nothing_but_an_orientation_leaves_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    assert upright(exif.tobytes()) == (8, None)


@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"II*\0", b"PK\3\4" + bytes(20), make("<")[:20]])
def test_damaged_data_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no TIFF header|unpack_from"):
        upright(data)


def test_what_a_camera_program_writes_is_understood() -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "Model", 5
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "jpeg", exif=exif)
    found, kept = upright(Image.open(stream).info["exif"])
    assert found == 5
    again = Image.Exif()
    again.load(kept)
    assert dict(again) == {0x0110: "Model", 0x0112: 1}
