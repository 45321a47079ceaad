"""The chunks of a PNG."""

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from irn_cli.formats import chunks
from irn_cli.formats.chunks import keyword, read_chunks, text, text_chunk


def png(**texts: str) -> io.BytesIO:
    stream, info = io.BytesIO(), PngInfo()
    for key, value in texts.items():
        info.add_text(key, value, zip=key == "packed")
    Image.new("RGB", (9, 5)).save(stream, "png", pnginfo=info)
    stream.seek(3)
    return stream


def test_chunks_are_read_and_pixels_are_not() -> None:
    stream = png(plain="a", packed="b" * 500)
    found = read_chunks(stream)
    assert stream.tell() == 3  # as it was
    assert [kind for kind, _ in found] == [b"IHDR", b"tEXt", b"zTXt", b"IEND"]
    assert {keyword(chunk): text(chunk) for chunk in found if keyword(chunk)} == {"plain": "a", "packed": "b" * 500}


def test_a_file_cut_off_gives_what_is_there() -> None:
    whole = png(plain="a").getvalue()
    for length in range(0, len(whole), 7):
        kinds = [kind for kind, _ in read_chunks(io.BytesIO(whole[:length]))]
        assert kinds == [b"IHDR", b"tEXt", b"IEND"][: len(kinds)]


def test_what_would_not_fit_in_memory_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_MOST", 300)
    stream = png(first="a" * 100, second="b" * 400, third="c")
    assert [keyword(chunk) for chunk in read_chunks(stream) if keyword(chunk)] == ["first", "third"]


@pytest.mark.parametrize("value", ["plain", "ü, in latin-1", "絵, which is not", "", "two\nlines"])
def test_a_text_comes_back(value: str) -> None:
    made = text_chunk("Title", value)
    assert (keyword(made), text(made)) == ("Title", value)
    assert made[0] == (b"iTXt" if "絵" in value else b"tEXt")  # the oldest kind that holds it


def test_pillow_reads_what_we_make() -> None:
    (kind, data), stream = text_chunk("Title", "絵"), png()
    body = stream.getvalue()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with Image.open(io.BytesIO(body[:33] + chunk + body[33:])) as image:
        assert image.text["Title"] == "絵"


def test_packed_texts_are_read_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zlib.compress(b"x" * 1000)
    for chunk in [(b"zTXt", b"Key\0\0" + packed), (b"iTXt", b"Key\0\1\0en\0Key\0" + packed)]:
        assert text(chunk) == "x" * 1000
    monkeypatch.setattr(chunks, "_MOST", 10)
    assert text((b"zTXt", b"Key\0\0" + packed)) == "x" * 10
    assert text((b"zTXt", b"Key\0\0broken")) == ""


def test_other_chunks_have_no_keyword() -> None:
    assert keyword((b"eXIf", b"a\0b")) is None
