"""The record's text form: whatever goes in comes out, and whatever else comes in is one clear error."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irn_cli.errors import RecordError
from irn_cli.record import Record, Restored, from_text, hash_pixels, to_text

hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.text(max_size=40)
sides = st.integers(1, 2**31 - 1)
records = st.builds(
    Record,
    st.sampled_from([2, 4, 8]),
    sides,
    sides,
    st.sampled_from(["RGB", "L"]),
    names,
    names,
    hashes,
    hashes,
    method=st.sampled_from(["network", "bicubic"]),
    border=st.sampled_from(["zero", "mirror", "edge"]),
    border_rows=st.integers(0, 64),
    border_columns=st.integers(0, 64),
    orientation=st.integers(1, 8),
    name=st.text(st.characters(exclude_characters="/\0"), max_size=40).filter(lambda name: name not in (".", "..")),
    format=names,
)
restored = st.builds(
    Restored,
    st.sampled_from([2, 4, 8]),
    names,
    names,
    hashes,
    st.integers(-(2**63), 2**63),
    st.floats(0, 1e6),
    st.integers(0, 1000),
    names,
)


@given(records | restored)
def test_what_is_written_is_read(record: Record | Restored) -> None:
    text = to_text(record)
    assert from_text(text) == record
    assert text.isascii()
    assert "\n" not in text


@given(records, st.dictionaries(names, st.integers() | st.none() | st.text()))
def test_fields_of_a_later_version_are_passed_over(record: Record, more: dict[str, object]) -> None:
    fields = json.loads(to_text(record))
    later = {
        name: value for name, value in more.items() if name not in {one.name for one in dataclasses.fields(record)}
    }
    assert from_text(json.dumps({**later, **fields})) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.text() | json_values.map(json.dumps))
def test_anything_else_is_a_record_error(text: str) -> None:
    with pytest.raises(RecordError):
        from_text(text)


@given(records, st.data())
def test_a_field_missing_or_of_another_type_is_a_record_error(record: Record, data: st.DataObject) -> None:
    fields = json.loads(to_text(record))
    name = data.draw(st.sampled_from([name for name in fields if name != "grey_icc"]))
    optional = {field.name for field in dataclasses.fields(record) if field.default is not dataclasses.MISSING}
    if data.draw(st.booleans()) and name not in optional:
        del fields[name]
    else:
        fields[name] = data.draw(st.none() | st.lists(st.integers()) | st.dictionaries(st.text(), st.text()))
    with pytest.raises(RecordError):
        from_text(json.dumps(fields))


def valid(**changes: object) -> str:
    fields = {"irn": 1, "kind": "small", "scale": 4, "width": 9, "height": 5, "mode": "RGB", "model": "m",
              "revision": "1", "weights": "0" * 64, "pixels": "f" * 64}  # fmt: skip
    return json.dumps({**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"irn": 4}, "newer irn"),
        ({"kind": "large"}, "unknown kind"),
        ({"scale": 3}, "impossible sizes"),
        ({"width": 0}, "impossible sizes"),
        ({"width": True}, "'width' should be int"),
        ({"mode": "CMYK"}, "colour mode"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"border": "wrap"}, "border 'wrap'"),
        ({"border_rows": 65}, "impossible border: 65 x 0"),
        ({"orientation": 9}, "unknown orientation: expected 1 to 8, found 9"),
        ({"pixels": "zz"}, "not a SHA-256"),
        ({"weights": "\n" * 64}, "not a SHA-256"),
        ({"grey_icc": "é"}, "grey_icc"),
        ({"grey_icc": "abc"}, "grey_icc"),
    ],
)
def test_errors_say_what_is_wrong(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        from_text(valid(**changes))


def test_the_first_format_is_written_where_it_suffices() -> None:
    old = valid().replace(", ", ",").replace(": ", ":").replace("}", ',"grey_icc":""}')
    assert to_text(from_text(old)) == old
    for change in ({"method": "bicubic"}, {"border": "mirror", "border_rows": 3}, {"method": "bicubic", "name": "a"}):
        text = to_text(from_text(valid(**change)))
        assert json.loads(text)["irn"] == 2  # which a reader of the first refuses
        assert set(json.loads(text)) == {*json.loads(old), *change}


def test_small_size_is_rounded_up() -> None:
    record = from_text(valid())
    assert isinstance(record, Record)
    assert record.small_size == (2, 3)


def test_hash_depends_on_samples_and_shape_alone() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert hash_pixels(pixels) == hash_pixels(np.asfortranarray(pixels))
    assert hash_pixels(pixels) != hash_pixels(pixels.reshape(6, 4, 3))
    assert hash_pixels(pixels) != hash_pixels(pixels + 1)


def test_the_originals_name_is_no_path_and_needs_no_newer_reader() -> None:
    plain = Record(4, 30, 20, "RGB", "m", "1", "0" * 64, "0" * 64)
    record = replace(plain, name="IMG 1 \u65e5.jpg", format="jpeg")
    written = json.loads(to_text(record))
    assert written["irn"] == 1  # an older reader passes over fields that it does not know
    assert from_text(to_text(record)) == record
    del written["name"], written["format"]
    assert from_text(json.dumps(written)) == plain
    assert "name" not in json.loads(to_text(plain))
    for name in ("../a.jpg", "/etc/a.jpg", "..", ".", "a\0b"):
        with pytest.raises(RecordError, match="'name' is not a file's"):
            from_text(json.dumps({**written, "name": name}))
