"""Bytes of a web page to text, as browsers do it: never an error, at worst a U+FFFD.

Order: byte order mark, the charset of the HTTP header, valid UTF-8, the page's own `meta`, what the text itself speaks for
(`legacy.py`; windows-1252 when nothing does). Valid UTF-8 with
letters beyond ASCII is UTF-8 even when a header says Latin-1: text of a one-byte charset almost never happens to be valid.
Labels mean what the WHATWG Encoding Standard says they mean (`iso-8859-1` is windows-1252, `gb2312` is GB 18030); labels it
does not list are ignored, which also keeps Python's codecs that are no charsets (`zlib`, `idna`) out.
"""

from __future__ import annotations

import codecs
import re

__all__ = ["decode_html"]

_GROUPS = {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    "cp1252": "windows-1252 cp1252 x-cp1252 iso-8859-1 iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 iso-ir-100 latin1 l1 "
    "ascii us-ascii ansi_x3.4-1968 cp819 ibm819 csisolatin1 x-user-defined",
    "cp1250": "windows-1250 cp1250 x-cp1250",
    "cp1251": "windows-1251 cp1251 x-cp1251",
    "cp1253": "windows-1253 cp1253 x-cp1253",
    "cp1254": "windows-1254 cp1254 x-cp1254 iso-8859-9 iso8859-9 iso_8859-9 latin5 l5",
    "cp1255": "windows-1255 cp1255 x-cp1255",
    "cp1256": "windows-1256 cp1256 x-cp1256",
    "cp1257": "windows-1257 cp1257 x-cp1257",
    "cp1258": "windows-1258 cp1258 x-cp1258",
    "cp874": "windows-874 iso-8859-11 iso8859-11 tis-620 dos-874",
    "cp866": "ibm866 cp866 866 csibm866",
    "koi8_r": "koi8-r koi koi8 koi8_r cskoi8r",
    "koi8_u": "koi8-u koi8-ru",
    "mac_roman": "macintosh mac x-mac-roman csmacintosh",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "gb18030 gbk gb2312 x-gbk chinese gb_2312 gb_2312-80 csgb2312 iso-ir-58",
    "big5hkscs": "big5 big5-hkscs cn-big5 x-x-big5 csbig5",
    "cp932": "shift_jis shift-jis sjis x-sjis ms932 ms_kanji windows-31j csshiftjis",
    "euc_jp": "euc-jp x-euc-jp cseucpkdfmtjapanese",
    "iso2022_jp": "iso-2022-jp csiso2022jp",
    "cp949": "euc-kr korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949 cseuckr iso-ir-149",
    "utf-16-le": "utf-16 utf-16le ucs-2 iso-10646-ucs-2 unicode csunicode unicodefeff",
    "utf-16-be": "utf-16be unicodefffe",
    **{
        f"iso8859_{n}": f"iso-8859-{n} iso8859-{n} iso8859{n} iso_8859-{n}"
        for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)
    },
}
_CODECS = {label: codec for codec, labels in _GROUPS.items() for label in labels.split()}
_CODECS |= {
    "latin2": "iso8859_2",
    "l2": "iso8859_2",
    "latin9": "iso8859_15",
    "l9": "iso8859_15",
    "iso-8859-8-i": "iso8859_8",
}
_CODECS |= {"cyrillic": "iso8859_5", "greek": "iso8859_7", "hebrew": "iso8859_8", "arabic": "iso8859_6"}
_META = re.compile(rb"<(?:meta|\?xml)[^>]{0,500}?(?:charset|encoding)\s*=\s*[\"']?\s*([a-z0-9_:.-]{1,40})", re.I)
_COMMENT = re.compile(rb"<!--.*?(?:-->|$)", re.DOTALL)
_SCANNED = 4096
_BEYOND_ASCII = bytes(range(0x80, 0x100))


def decode_html(data: bytes, declared: str | None = None) -> str:
    """Return a page as text without NUL characters; `declared` is the charset of the HTTP header."""
    text = _decode(data, declared)
    return text.replace("\0", "") if "\0" in text else text


def _decode(data: bytes, declared: str | None) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return data[3:].decode("utf-8", "replace")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data[2:].decode("utf-16-le" if data.startswith(codecs.BOM_UTF16_LE) else "utf-16-be", "replace")
    stated = _CODECS.get((declared or "").strip().strip("\"'").lower())
    # A charset of 7 bits, or one with zeros, is valid UTF-8 too.
    if stated in (None, "utf-8", "cp1252") and b"\x1b" not in data and not _wide(data):
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return data.decode(_choose(data, stated), "replace")


def _choose(data: bytes, stated: str | None) -> str:
    """Return the codec of a page that is not simply UTF-8."""
    meta = _meta(data)
    if wide := _wide(data):
        return wide
    if stated in ("utf-16-le", "utf-16-be"):  # and yet no zeros: the header is wrong
        stated = None
    if stated not in (None, "utf-8"):
        return stated or ""
    if _mostly_utf8(data) and meta != "iso2022_jp":
        return "utf-8"
    if meta and meta != "utf-8":
        return meta
    from humpback.corpus.legacy import guess_codec  # few pages need it, and it loads the language model

    return "cp1252" if stated or meta else guess_codec(data)


def _meta(data: bytes) -> str | None:
    found = _META.search(_COMMENT.sub(b"", data[:_SCANNED]))
    codec = _CODECS.get(found[1].decode("ascii").lower()) if found else None
    return "utf-8" if codec in ("utf-16-le", "utf-16-be") else codec  # it could be read as ASCII, so it is not UTF-16


def _wide(data: bytes) -> str:
    head = data[:64]
    if len(head) < 16 or b"\0" not in head:
        return ""
    if head[1::2].count(0) * 4 > len(head):
        return "utf-16-le"
    return "utf-16-be" if head[0::2].count(0) * 4 > len(head) else ""


def _mostly_utf8(data: bytes) -> bool:
    """Tell whether the letters beyond ASCII are UTF-8 but for some damage, such as a page cut within one."""
    beyond = len(data) - len(data.translate(None, _BEYOND_ASCII))
    return data.decode("utf-8", "replace").count("\ufffd") * 10 <= beyond
