"""XMP as other programs write it: properties are found and cut whatever the prefix, quote or form."""

import pytest

from irn_cli.formats.xmp import cut, find

SPACE = "urn:test"
HEAD = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
TAIL = "</rdf:RDF></x:xmpmeta>"
OTHER = '<rdf:Description rdf:about="" xmlns:dc="urn:dc"><dc:title>a &amp; b</dc:title></rdf:Description>'


def packet(*descriptions: str) -> bytes:
    return "".join([HEAD, *descriptions, TAIL]).encode()


FORMS = [
    '<rdf:Description rdf:about="" xmlns:t="urn:test"><t:record>{"a": "&lt;é&gt;"}</t:record></rdf:Description>',
    """<rdf:Description rdf:about='' xmlns:other='urn:test'>
         <other:record>{"a": "&lt;é&gt;"}
         </other:record>
       </rdf:Description>""",
    '<rdf:Description rdf:about="" xmlns:t="urn:test" t:record="{&quot;a&quot;: &quot;&lt;é&gt;&quot;}"/>',
    """<rdf:Description xmlns:t='urn:test' t:record='{"a": "&lt;&#xE9;&gt;"}' rdf:about=''/>""",
    # Adobe's toolkit, and Exiv2 with it, adds a slash to the namespace.
    '<rdf:Description rdf:about="" xmlns:t="urn:test/"><t:record>{"a": "&lt;é&gt;"}</t:record></rdf:Description>',
    '<rdf:Description rdf:about=""><record xmlns="urn:test"><![CDATA[{"a": "<é>"}]]></record></rdf:Description>',
]


@pytest.mark.parametrize("form", FORMS)
def test_a_property_is_found_and_cut(form: str) -> None:
    assert find(packet(OTHER, form), SPACE, "record") == '{"a": "<é>"}'
    left = cut(packet(OTHER, form), SPACE)
    assert find(left, SPACE, "record") is None
    assert b"urn:test" not in left
    assert find(left, "urn:dc", "title") == "a & b"
    assert cut(packet(form), SPACE) is None
    assert find(b"<?xpacket begin=''?>" + packet(form) + b"<?xpacket end='w'?>\0\0", SPACE, "record")


def test_only_what_is_named_is_cut() -> None:
    both = packet('<rdf:Description xmlns:t="urn:test" t:one="1" t:two="2"><t:onemore/></rdf:Description>')
    left = cut(both, SPACE, "one")
    assert find(left, SPACE, "two") == "2"
    assert find(left, SPACE, "one") is None
    assert b"onemore" not in left


def test_without_the_namespace_nothing_is_read_or_changed() -> None:
    broken = b"<this is < no XML"
    assert find(broken, SPACE, "record") is None
    assert cut(broken, SPACE) == broken


@pytest.mark.parametrize(
    "content",
    [
        b"urn:test <",
        b'<!DOCTYPE a [<!ENTITY b "bb">]><a xmlns="urn:test">&b;</a>',
        b'<a xmlns="urn:test">' + b"<b>" * 5_000,
        b'<a xmlns="urn:test">' + b"<b/>" * 200_000 + b"</a>",
        b'<a xmlns="urn:test">' + b"<b>" * 20_000 + b"</b>" * 20_000 + b"</a>",
    ],
)
def test_what_is_no_plain_xmp_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        cut(content, SPACE)
