"""XMP: properties found and cut out by their namespace, however a program has written them.

Other programs rewrite XMP: other prefixes, quotes and line breaks, and properties as attributes instead of elements.
"""

from collections.abc import Iterator
from xml.dom import minidom
from xml.parsers.expat import ExpatError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_MOST = 100_000  # tags; what has more is not read, for each takes half a kilobyte of memory


def find(xmp: bytes, namespace: str, name: str) -> str | None:
    """Find the text of a simple property.

    Raises:
        ValueError: damaged.
    """
    if namespace.encode() in xmp:
        for _, node in _properties(_parse(xmp)):
            if _is_of(node, namespace) and node.localName == name:
                return _text(node).strip()
    return None


def cut(xmp: bytes, namespace: str, names: str | tuple[str, ...] = "") -> bytes | None:
    """Take out a namespace's properties with certain beginnings; where there are none, XMP comes back byte for byte.

    Returns:
        None where no property is left.

    Raises:
        ValueError: damaged.
    """
    if namespace.encode() not in xmp:
        return xmp
    document = _parse(xmp)
    for description, node in list(_properties(document)):
        if _is_of(node, namespace) and str(node.localName).startswith(names):
            if isinstance(node, minidom.Attr):
                description.removeAttributeNode(node)
            else:
                description.removeChild(node)
    if not any(_properties(document)):
        return None
    for description in _descriptions(document):
        if description.parentNode and not any(True for _ in _of(description)):
            description.parentNode.removeChild(description)
    return "".join(node.toxml() for node in document.childNodes).encode()


def _parse(xmp: bytes) -> minidom.Document:
    if b"<!DOCTYPE" in xmp or xmp.count(b"<") > _MOST:
        raise ValueError("more than XMP needs")
    try:
        document = minidom.parseString(xmp.rstrip(b"\0"))  # noqa: S318  # no DTD, so no entities that grow
        document.toxml()  # too deep, if at all
    except (ExpatError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return document


def _descriptions(document: minidom.Document) -> list[minidom.Element]:
    found = document.getElementsByTagNameNS(_RDF, "Description")
    return [node for node in found if node.parentNode and node.parentNode.nodeName.endswith("RDF")]  # others are values


def _properties(document: minidom.Document) -> Iterator[tuple[minidom.Element, minidom.Element | minidom.Attr]]:
    """Each property of each description, an element or an attribute."""
    for description in _descriptions(document):
        for node in _of(description):
            yield description, node


def _of(description: minidom.Element) -> Iterator[minidom.Element | minidom.Attr]:
    attributes: list[minidom.Attr] = list(description.attributes.values())
    yield from (node for node in attributes if node.namespaceURI not in (None, _XMLNS, _RDF))
    yield from (node for node in list(description.childNodes) if isinstance(node, minidom.Element))


def _is_of(node: minidom.Element | minidom.Attr, namespace: str) -> bool:
    """Whether a node is of a namespace, to whose name Adobe's toolkit adds a slash where none is."""
    return str(node.namespaceURI).rstrip("/") == namespace.rstrip("/")


def _text(node: minidom.Element | minidom.Attr) -> str:
    if isinstance(node, minidom.Attr):
        return node.value
    return "".join(child.data for child in node.childNodes if isinstance(child, minidom.Text))
