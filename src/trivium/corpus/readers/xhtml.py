"""XHTML as XML reads it: `<title/>` and `<script src="x"/>` are closed there, and swallow the rest of the page in HTML."""

from __future__ import annotations

import html
import re
from html import entities

from trivium.corpus import extras

ENDINGS = (".xhtml", ".xht")
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_DOCTYPE = re.compile(r"<!DOCTYPE[^\[>]*(?:\[[^\]]*\]\s*)?>", re.IGNORECASE)
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,30});")
_XML = frozenset(("amp", "lt", "gt", "quot", "apos"))
_SWALLOWS = re.compile(
    r"<(title|script|style|textarea|iframe|noscript|noframes|noembed|xmp|select|template|svg|math)\b"
    r"""((?:[^<>"']|"[^"]*"|'[^']*')*)/>""",
    re.IGNORECASE,
)
"""Elements whose content, up to an end tag that never comes, is no text of the page."""


def as_html(markup: str) -> str:
    """The same page, written as HTML. What is not well-formed (a browser would refuse it) is taken for HTML, but an element
    that closes itself stays closed."""
    with extras.needed("data", "lxml"):
        from lxml import etree
    text = _ENTITY.sub(_character, _DECLARATION.sub("", markup.removeprefix("\ufeff"), count=1))
    # entities that the page defines itself, within libxml2's limits; nothing is loaded from elsewhere
    parser = etree.XMLParser(
        resolve_entities="internal", no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(text, parser)
    except (etree.XMLSyntaxError, ValueError):
        return _SWALLOWS.sub(r"<\1\2></\1>", _DOCTYPE.sub("", markup, count=1))
    for element in root.iter(etree.Element):
        element.tag = etree.QName(element).localname
    etree.cleanup_namespaces(root)
    return str(etree.tostring(root, method="html", encoding="unicode"))


def _character(found: re.Match[str]) -> str:
    """`&nbsp;` and the like, which browsers know without being told; those of XML itself stay."""
    known = entities.html5.get(f"{found[1]};")
    return found[0] if known is None or found[1] in _XML else html.escape(known, quote=False)
