"""Metadata: each kind in each container, read and written; what a container cannot hold is named."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from irn_cli.formats.chunks import keyword, text, text_chunk
from irn_cli.image import read, write
from irn_cli.picture import Picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
IPTC = b"\x1c\x02\x78\x00\x07Caption"
RDF = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
XMP = RDF + (
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:format>p</dc:format>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def directory(entries: dict[int, tuple[int, bytes]], at: int, following: int = 0) -> bytes:
    """A TIFF directory at a place, its values behind it, as any writer but Pillow would lay it out."""
    table, values = struct.pack("<H", len(entries)), b""
    behind = at + 2 + 12 * len(entries) + 4
    for tag, (kind, value) in sorted(entries.items()):
        count = len(value) // {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", behind + len(values))
        table += struct.pack("<HHI", tag, kind, count) + place
        values += value if len(value) > 4 else b""
    return table + struct.pack("<I", following) + values


def exif(orientation: int = 6) -> bytes:
    """EXIF with everything that has a directory of its own: EXIF, GPS, interoperability, and a maker note."""
    short, long = (lambda value: (3, struct.pack("<H", value))), (lambda value: (4, struct.pack("<I", value)))
    interop = directory({1: (2, b"R98\0"), 2: (7, b"0100")}, 1000)
    lens = directory(
        {0x9000: (7, b"0232"), 0x927C: (7, b"maker note"), 0xA005: long(1000), 0xA434: (2, b"Lens 50\0")}, 500
    )
    gps = directory({0: (1, b"\2\3\0\0"), 1: (2, b"N\0")}, 800)
    main = directory({0x0112: short(orientation), 0x013B: (2, b"Ada Byron\0"), 0x8769: long(500), 0x8825: long(800)}, 8)
    body = (b"II*\0" + struct.pack("<I", 8) + main).ljust(500, b"\0")
    return b"Exif\0\0" + ((body + lens).ljust(800, b"\0") + gps).ljust(1000, b"\0") + interop


def seen(picture: Picture) -> dict[str, object]:
    """The metadata of a picture by kind, in a form that does not depend on the container."""
    tags = Image.Exif()
    tags.load(picture.exif or b"")
    camera = tags.get_ifd(ExifTags.IFD.Exif)
    texts = {keyword(chunk): text(chunk) for chunk in picture.chunks if keyword(chunk)}
    return {
        "profile": picture.icc,
        "artist": tags.get(ExifTags.Base.Artist),
        "lens": camera.get(ExifTags.Base.LensModel),
        "maker note": camera.get(ExifTags.Base.MakerNote),
        "GPS": tags.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSLatitudeRef),
        "interoperability": ExifTags.IFD.Interop in camera and tags.get_ifd(ExifTags.IFD.Interop).get(1),
        "XMP": b"dc:format" in (picture.xmp or b""),
        "resolution": picture.dpi and tuple(round(value) for value in picture.dpi),
        "Comment": texts.get("Comment"),
        "prompt": texts.get("prompt"),
        "IPTC": IPTC.hex() in texts.get("Raw profile type iptc", ""),
        "gAMA": dict(picture.chunks).get(b"gAMA"),
        "cICP": dict(picture.chunks).get(b"cICP"),
    }


ALL = Picture(
    PIXELS,
    icc=SRGB,
    exif=exif(1),
    xmp=XMP,
    dpi=(300.0, 150.0),
    chunks=(
        text_chunk("Comment", "a comment"),
        text_chunk("prompt", "ein schöner Tag 日"),
        text_chunk("Raw profile type iptc", f"\niptc\n{len(IPTC):8}\n{IPTC.hex()}\n"),
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cICP", bytes([1, 13, 0, 1])),
    ),
)
# What each format that we write cannot hold.
LOST = {
    "png": set(),
    "jpg": {"prompt", "gAMA", "cICP"},
    "webp": {"Comment", "prompt", "IPTC", "gAMA", "cICP"},
    "tif": {"Comment", "prompt", "gAMA", "cICP"},
    "avif": {"Comment", "prompt", "IPTC", "gAMA", "cICP"},
}


@pytest.mark.parametrize("suffix", LOST)
def test_what_is_written_is_read_or_named(tmp_path: Path, suffix: str) -> None:
    before = seen(ALL)
    assert all(before.values())
    lost = write(tmp_path / f"a.{suffix}", ALL)
    after = seen(read(tmp_path / f"a.{suffix}"))
    assert {kind for kind in before if after[kind] != before[kind]} == LOST[suffix]
    assert len(lost) == bool(LOST[suffix])
    for kind in LOST[suffix]:
        assert kind.lower() in lost[0].lower(), f"{kind} is lost in silence"
    assert read(tmp_path / f"a.{suffix}").warnings == ()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_source(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("Comment", "a comment", zip=True)
    info.add_itxt("prompt", "ein schöner Tag 日", lang="de")
    info.add_text("Raw profile type iptc", f"\niptc\n{len(IPTC):8}\n{IPTC.hex()}\n", zip=True)
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add(b"cICP", bytes([1, 13, 0, 1]))
    Image.fromarray(PIXELS).save(path, icc_profile=SRGB, exif=exif(), dpi=(300, 150), pnginfo=info)


def jpeg_source(path: Path) -> None:
    block = b"8BIM\4\4\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    photoshop = b"Photoshop 3.0\0" + block
    extra = b"\xff\xed" + struct.pack(">H", 2 + len(photoshop)) + photoshop
    options = {"icc_profile": SRGB, "exif": exif(), "dpi": (300, 150), "xmp": XMP, "comment": b"a comment"}
    Image.fromarray(PIXELS).save(path, extra=extra, **options)


def tiff_source(path: Path) -> None:
    tags = Image.Exif()
    tags.load(exif())
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = tags.get_ifd(ExifTags.IFD.Interop)
    tags[ExifTags.Base.XMLPacket] = XMP
    tags[0x83BB] = IPTC
    Image.fromarray(PIXELS).save(path, exif=tags, icc_profile=SRGB, dpi=(300, 150))


def webp_source(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, lossless=True, icc_profile=SRGB, exif=exif(), xmp=XMP)


def avif_source(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, icc_profile=SRGB, exif=exif(), xmp=XMP)


def gif_source(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, comment=b"a comment")


def bmp_source(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, dpi=(300, 150))


CAMERA = {"artist", "lens", "maker note", "GPS", "interoperability"}


@pytest.mark.parametrize(
    ("suffix", "source", "kinds"),
    [
        ("png", png_source, set(seen(ALL))),
        ("jpg", jpeg_source, {*CAMERA, "profile", "XMP", "resolution", "Comment", "IPTC"}),
        ("tif", tiff_source, {*CAMERA, "profile", "XMP", "resolution", "IPTC"}),
        ("webp", webp_source, {*CAMERA, "profile", "XMP"}),
        ("avif", avif_source, {*CAMERA, "profile", "XMP"}),
        ("gif", gif_source, {"Comment"}),
        ("bmp", bmp_source, {"resolution"}),
    ],
)
def test_each_kind_is_read_from_each_container(
    tmp_path: Path, suffix: str, source: Callable[[Path], None], kinds: set[str]
) -> None:
    source(tmp_path / f"a.{suffix}")
    picture = read(tmp_path / f"a.{suffix}")
    found, wanted = seen(picture), seen(ALL)
    assert {kind for kind in wanted if found[kind] == wanted[kind]} == kinds
    assert picture.warnings == ()
    if "artist" in kinds:
        assert picture.size == (16, 12)  # upright
    # Through a PNG everything goes on.
    assert write(tmp_path / "b.png", picture) == ()
    again = seen(read(tmp_path / "b.png"))
    assert {kind for kind in wanted if again[kind] == wanted[kind]} == kinds


# What cannot stay as it is --------------------------------------------------------------------------------------------


def profile_of(space: bytes) -> bytes:
    return SRGB[:16] + space + SRGB[20:]


@pytest.mark.parametrize(
    ("mode", "profile", "kept", "colours", "words"),
    [
        ("RGB", SRGB, True, "RGB", None),
        ("L", SRGB, True, "RGB", None),  # as RGB, in which alone the profile has a meaning
        ("LA", SRGB, True, "RGB", None),
        ("P", SRGB, True, "RGB", None),
        ("RGB", profile_of(b"CMYK"), False, "RGB", "its colour profile is for CMYK, not for RGB"),
        ("RGB", profile_of(b"GRAY"), False, "RGB", "its colour profile is for GRAY, not for RGB"),
        ("L", profile_of(b"GRAY"), True, "L", None),
        ("L", profile_of(b"Lab "), False, "L", "its colour profile is for Lab, not for grey"),
        ("RGB", b"no profile at all", False, "RGB", "its colour profile is damaged"),
        ("L", SRGB[:200], False, "L", "its colour profile is damaged"),
    ],
)
def test_a_profile_stays_or_its_loss_is_told(
    tmp_path: Path, mode: str, profile: bytes, kept: bool, colours: str, words: str | None
) -> None:
    image = Image.radial_gradient("L").resize((16, 12))
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(tmp_path / "a.png", icc_profile=profile)
    picture = read(tmp_path / "a.png")
    assert (picture.icc == profile) == kept
    assert picture.mode == colours
    assert [words in warning for warning in picture.warnings] == ([True] if words else [])


def test_a_gain_map_is_told_and_no_more_promised(tmp_path: Path) -> None:
    promise = b'<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", xmp=XMP.replace(b"</rdf:RDF>", promise + b"</rdf:RDF>"))
    picture = read(tmp_path / "a.jpg")
    assert picture.warnings == ("left out: the HDR gain map",)
    assert b"hdr" not in picture.xmp
    assert b"dc:format" in picture.xmp
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg", xmp=RDF + promise + b"</rdf:RDF></x:xmpmeta>")
    assert read(tmp_path / "b.jpg").xmp is None


def test_what_is_left_out_is_named_once(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    for kind in (b"caBX", b"caBX", b"tIME"):
        info.add(kind, b"1234567")
    Image.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=info)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"caBX", b"credentials") * 2 + data[33:])
    assert read(tmp_path / "a.png").warnings == ("left out: the PNG chunk caBX",)
    segment = b"\xff\xeb" + struct.pack(">H", 10) + b"JUMBFJUM"
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", extra=segment)
    assert read(tmp_path / "a.jpg").warnings == ("left out: the JPEG segment APP11",)
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", tiffinfo={33550: (1.0, 1.0, 0.0), 0x010D: "Plan 9"})
    picture = read(tmp_path / "a.tif")
    assert picture.warnings == ("left out: the TIFF tag 33550",)
    assert b"Plan 9" in picture.exif
    Image.fromarray(PIXELS).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])])
    assert read(tmp_path / "a.mpo").warnings == ("left out: what follows the picture in its file",)


def test_a_text_in_another_alphabet_travels_through_jpeg(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", Picture(PIXELS, chunks=(text_chunk("Comment", "日本"), text_chunk("Comment", "two"))))
    assert [text(chunk) for chunk in read(tmp_path / "a.jpg").chunks] == ["日本", "two"]


def test_the_resolution_of_a_webp_stands_in_its_exif(tmp_path: Path) -> None:
    assert write(tmp_path / "a.webp", Picture(PIXELS, dpi=(300.0, 150.0))) == ()
    assert read(tmp_path / "a.webp").dpi == (300.0, 150.0)


def test_the_colours_of_an_avif_are_named_in_a_png(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.avif")
    data = (tmp_path / "a.avif").read_bytes()
    assert read(tmp_path / "a.avif").chunks == ()  # sRGB
    place = data.index(b"colrnclx") + 8
    wide = data[:place] + struct.pack(">HH", 9, 16) + data[place + 4 :]
    assert read(io.BytesIO(wide)).chunks == ((b"cICP", bytes([9, 16, 0, 1])),)


@pytest.mark.parametrize("order", [b"II*\0", b"MM\0*"])
def test_damaged_exif_is_told(order: bytes) -> None:
    for body in (b"", b"\xff" * 4, (b"\x08\0\0\0" if order[:1] == b"I" else b"\0\0\0\x08") + b"\xff\xff"):
        stream = io.BytesIO()
        Image.fromarray(PIXELS).save(stream, "PNG", exif=b"Exif\0\0" + order + body)
        stream.seek(0)
        picture = read(stream)
        assert picture.exif is None
        assert picture.warnings == ("its EXIF data are damaged and were left out",)
