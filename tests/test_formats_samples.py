"""Every way that a file stores samples, against encoders and decoders that are not Pillow's; or refused by name."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile

from irn_cli.errors import InputError
from irn_cli.formats.samples import REDUCED
from irn_cli.image import read

HEIGHT, WIDTH = 9, 21


def drawn(levels: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (HEIGHT, WIDTH, channels))


def assert_read(data: bytes, colours: np.ndarray, alpha: np.ndarray | None, *, deep: bool, within: float = 1) -> None:
    """Read a file and compare it with what it should show: colours and alpha from 0 to 1."""
    picture = read(io.BytesIO(data))
    assert np.abs(picture.pixels - 255 * colours).max() <= (within if deep else 0.51)
    assert (picture.alpha is None) == (alpha is None)
    if picture.alpha is not None:
        assert np.abs(picture.alpha - 255 * alpha).max() <= (within if deep else 0.51)
    assert (REDUCED in picture.warnings) == deep


# PNG ------------------------------------------------------------------------------------------------------------------

PNGS = [
    (kind, depth)
    for kind, depths in {
        "grey": (1, 2, 4, 8, 16), "grey with key": (1, 2, 4, 8, 16), "grey with alpha": (8, 16), "colour": (8, 16),
        "colour with key": (8, 16), "colour with alpha": (8, 16), "palette": (1, 2, 4, 8),
        "palette with alpha": (1, 2, 4, 8),
    }.items()
    for depth in depths
]  # fmt: skip


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), PNGS)
def test_png(kind: str, depth: int, interlaced: bool) -> None:
    with_alpha = kind in ("grey with alpha", "colour with alpha")
    samples = drawn(2**depth, (3 if kind.startswith("colour") else 1) + with_alpha)
    samples[-1] = 0  # as in a file that ends early
    options: dict[str, Any] = {"greyscale": kind.startswith("grey"), "alpha": with_alpha}
    if kind.endswith("key"):
        samples[3, 4] = samples[0, 0] = samples[2, 3]
        samples[0, 0, 0] ^= 1  # almost the key: of 16 bits another lower byte
        key = tuple(map(int, samples[2, 3]))
        options["transparent"] = key if len(key) > 1 else key[0]
    if kind.startswith("palette"):
        entries = np.random.default_rng(1).integers(0, 256, (2**depth, 4 if kind.endswith("alpha") else 3))
        options["palette"] = [tuple(map(int, entry)) for entry in entries]
    writer = png.Writer(WIDTH, HEIGHT, bitdepth=depth, interlace=interlaced, **options)
    stream = io.BytesIO()
    writer.write_array(stream, samples.ravel().tolist())
    _, _, rows, found = png.Reader(bytes=stream.getvalue()).asDirect()
    truth = np.array([list(row) for row in rows]).reshape(HEIGHT, WIDTH, -1) / (2 ** found["bitdepth"] - 1)
    alpha = truth[..., -1] if found["alpha"] else None
    assert_read(stream.getvalue(), truth[..., :-1] if found["alpha"] else truth, alpha, deep=depth == 16)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("width", "height"), [(21, 9), (1, 2), (5, 1), (1, 1)])
def test_a_png_whose_pixels_end_early_in_good_order_is_refused(width: int, height: int, interlaced: bool) -> None:
    stream = io.BytesIO()
    png.Writer(width, height, greyscale=False, interlace=interlaced).write_array(stream, [200] * (3 * width * height))
    chunks = dict(png.Reader(bytes=stream.getvalue()).chunks())
    rows = zlib.decompress(chunks[b"IDAT"])
    last = 1 + 3 * (
        width if height > 1 or not interlaced else width // 2
    )  # bytes; of interlaced ones, in the last pass
    for kept in {len(rows) - last, len(rows) // 2, 0}:
        cut = io.BytesIO()
        png.write_chunks(cut, [*(chunks | {b"IDAT": zlib.compress(rows[:kept])}).items()])
        cut.seek(0)
        with pytest.raises(InputError, match=r"incomplete|truncated"):
            read(cut)
    assert read(io.BytesIO(stream.getvalue())).size == (height, width)


# TIFF -----------------------------------------------------------------------------------------------------------------


def tiffs() -> Iterator[tuple[str, str | None, int, str | None, str, str | None]]:
    photometrics, extras = (
        ("minisblack", "miniswhite", "rgb", "palette", "separated"),
        ("unassalpha", "assocalpha", "unspecified"),
    )
    for photometric, extra, depth, compression, order in itertools.product(
        photometrics, (None, *extras), (8, 16), (None, "zlib"), "<>"
    ):
        if not (photometric == "palette" and extra):
            one = photometric not in ("rgb", "separated") and not extra
            for planar in (None,) if one else ("contig", "separate"):
                yield photometric, extra, depth, compression, order, planar


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("layout", "tag"), [({"rowsperstrip": 3}, "StripOffsets"), ({"tile": (16, 16)}, "TileOffsets")]
)
def test_a_tiff_that_lacks_pixels_is_refused(tmp_path: Path, layout: dict[str, Any], tag: str, planar: str) -> None:
    path, samples = tmp_path / "a.tif", drawn(256, 3).astype(np.uint8)
    stored = samples if planar == "contig" else samples.transpose(2, 0, 1)
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, **layout)
    assert np.array_equal(read(path).pixels, samples)
    whole = path.read_bytes()
    for fewer in (lambda offsets: offsets[:-1], lambda offsets: (*offsets[:-1], 0)):
        path.write_bytes(whole)
        with tifffile.TiffFile(path, mode="r+b") as file:
            offsets = file.pages[0].tags[tag]
            offsets.overwrite(fewer(offsets.value))
        with pytest.raises(InputError, match="incomplete"):
            read(path)


@pytest.mark.parametrize(("photometric", "extra", "depth", "compression", "order", "planar"), list(tiffs()))
def test_tiff(
    photometric: str, extra: str | None, depth: int, compression: str | None, order: str, planar: str | None
) -> None:
    white = 2**depth - 1
    channels = {"rgb": 3, "separated": 4}.get(photometric, 1) + (extra is not None)
    samples = drawn(white + 1, channels).astype(f"u{depth // 8}")
    if extra == "assocalpha":
        samples = np.minimum(samples, samples[..., -1:])
    options: dict[str, Any] = {"extrasamples": [extra]} if extra else {}
    if photometric == "palette":
        options["colormap"] = np.random.default_rng(1).integers(0, 256, (3, white + 1)).astype("u2") * 257
    stream = io.BytesIO()
    stored = samples[..., 0] if planar is None else samples.transpose(2, 0, 1) if planar == "separate" else samples
    options |= {"photometric": photometric, "planarconfig": planar, "byteorder": order, "compression": compression}
    tifffile.imwrite(stream, stored, **options)
    stream.seek(0)
    try:
        picture = read(stream)
    except InputError:
        usual = photometric == "rgb" or (photometric, depth, extra) == ("minisblack", 8, "unassalpha")
        usual |= not extra and (
            depth == 8 or photometric in ("minisblack", "separated") or (photometric, order) == ("miniswhite", "<")
        )
        if planar != "separate" and usual:
            raise
        return
    levels = samples / white
    alpha = levels[..., -1:] if extra in ("unassalpha", "assocalpha") else None
    levels = levels[..., :-1] if extra else levels
    truth = {
        "miniswhite": lambda: 1 - levels,
        "palette": lambda: options["colormap"].T[samples[..., 0]] / 65535,
        "separated": lambda: (1 - levels[..., :3]) * (1 - levels[..., 3:]),
    }.get(photometric, lambda: levels)()
    # Where colours are premultiplied, what they are divided by may be next to nothing.
    seen = picture.pixels * (alpha if alpha is not None and extra == "assocalpha" else 1.0)
    assert np.abs(seen - 255 * truth).max() <= (2 if photometric == "separated" or depth == 16 else 1)
    assert (picture.alpha is None) == (alpha is None)
    assert alpha is None or np.abs(picture.alpha[..., None] - 255 * alpha).max() <= 1
    assert (REDUCED in picture.warnings) == (depth == 16)


def tiff_by_hand(bits: int, photometric: int, data: bytes, order: str, sample_format: int, fill: int) -> bytes:
    tags = [(256, 3, WIDTH), (257, 3, HEIGHT), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (266, 3, fill),
            (273, 4, 200), (277, 3, 1), (278, 3, HEIGHT), (279, 4, len(data)), (339, 3, sample_format)]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI" + ("HH" if kind == 3 else "I"), tag, kind, 1, *([value, 0] if kind == 3 else [value]))
        for tag, kind, value in tags
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return (magic + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)).ljust(200, b"\0") + data


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
def test_grey_tiff(bits: int, order: str, photometric: int) -> None:
    samples = drawn(2**bits, 1)[..., 0]
    for sample_format, fill in itertools.product((1, 2, 3), (1, 2)):
        rows = ["".join(format(level, f"0{bits}b") for level in row) for row in samples]
        if order == "<" and bits >= 16:
            rows = [
                "".join(format(b, "08b") for level in row for b in int(level).to_bytes(bits // 8, "little"))
                for row in samples
            ]
        data = b"".join(
            int(row.ljust(-len(row) % 8 + len(row), "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows
        )
        if fill == 2:
            data = bytes(int(format(byte, "08b")[::-1], 2) for byte in data)
        try:
            picture = read(io.BytesIO(tiff_by_hand(bits, photometric, data, order, sample_format, fill)))
        except InputError:
            # Whoever stores unsigned samples in the usual way is read.
            assert sample_format != 1 or bits in (12, 32) or (fill == 2) or (bits == 16 and photometric == 0)
            continue
        assert sample_format == 1
        truth = samples / (2**bits - 1)
        assert np.abs(picture.pixels[..., 0] - 255 * (truth if photometric else 1 - truth)).max() <= 0.51
        assert (REDUCED in picture.warnings) == (bits > 8)


# BMP ------------------------------------------------------------------------------------------------------------------


def bmp(bits: int, rows: list[bytes], masks: Sequence[int] = (), palette: bytes = b"", *, down: bool = False) -> bytes:
    lines = [row + bytes(-len(row) % 4) for row in rows]
    data = b"".join(lines if down else lines[::-1])
    size, height = 108 if len(masks) > 3 else 40, -HEIGHT if down else HEIGHT
    fields = size, WIDTH, height, 1, bits, 3 if masks else 0, len(data), 0, 0, len(palette) // 4, 0
    header = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks)
    header = header.ljust(size, b"\0") + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(data), 0, 0, 14 + len(header)) + header + data


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits: int, grey: bool, down: bool) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (2**bits, 4)).astype("u1")
    if grey:
        palette[:] = np.linspace(0, 255, 2**bits, dtype="u1")[:, None]
    palette[:, 3] = 0
    samples = drawn(2**bits, 1)[..., 0]
    texts = ["".join(format(level, f"0{bits}b") for level in row) for row in samples]
    rows = [int(text.ljust(-len(text) % 8 + len(text), "0"), 2).to_bytes(-(-len(text) // 8), "big") for text in texts]
    data = bmp(bits, rows, palette=palette.tobytes(), down=down)
    assert_read(data, palette[samples][..., 2::-1] / 255, None, deep=False)
    assert read(io.BytesIO(data)).mode == ("L" if grey else "RGB")


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, ()),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (24, ()),
        (32, ()),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    ],
)
def test_bmp_of_colours(bits: int, masks: tuple[int, ...], down: bool) -> None:
    samples = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH), dtype=np.uint64)
    rows = [b"".join(int(level).to_bytes(bits // 8, "little") for level in row) for row in samples]
    parts = masks or ((0x7C00, 0x3E0, 0x1F) if bits == 16 else (0xFF0000, 0xFF00, 0xFF))
    levels = [(samples & part) / part for part in parts]
    data = bmp(bits, rows, masks, down=down)
    if masks in [(0xF00, 0xF0, 0xF), (0x7C00, 0x3E0, 0x1F, 0x8000), (0x3FF00000, 0xFFC00, 0x3FF)]:
        with pytest.raises(InputError):
            read(io.BytesIO(data))
        return
    truth = np.stack(levels[:3], 2)
    picture = read(io.BytesIO(data))
    assert np.abs(picture.pixels - 255 * truth).max() <= 1
    assert (picture.alpha is None) == (len(levels) == 3)
    assert picture.alpha is None or np.abs(picture.alpha - 255 * levels[3]).max() <= 0.51
    assert picture.warnings == ()
