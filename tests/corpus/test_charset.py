from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.charset import decode_html

GERMAN = "<p>Grüße aus Köln – schön</p>"


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        (GERMAN.encode(), None, GERMAN),
        (b"\xef\xbb\xbf" + GERMAN.encode(), "windows-1251", GERMAN),
        (b"\xff\xfe" + GERMAN.encode("utf-16-le"), "utf-8", GERMAN),
        (b"\xfe\xff" + GERMAN.encode("utf-16-be"), None, GERMAN),
        (GERMAN.encode("utf-16-le"), None, GERMAN),  # no mark, no header
        (GERMAN.encode("utf-16-be"), "utf-16be", GERMAN),
        (GERMAN.encode("cp1252"), None, GERMAN),
        (GERMAN.encode("cp1252"), "ISO-8859-1", GERMAN),  # the label means windows-1252
        (GERMAN.encode(), "ISO-8859-1", GERMAN),  # a server's default, over a page that is UTF-8
        (GERMAN.encode(), "utf-16", GERMAN),  # a header that cannot be
        ("Привет, мир".encode("koi8-r"), " 'KOI8-R' ", "Привет, мир"),
        ("Привет".encode("cp1251"), "windows-1251", "Привет"),
        (b"<meta charset=windows-1251>" + "Привет".encode("cp1251"), None, "<meta charset=windows-1251>Привет"),
        (b'<?xml encoding="koi8-r"?>' + "Привет".encode("koi8-r"), None, '<?xml encoding="koi8-r"?>Привет'),
        (b"<!-- <meta charset=koi8-r> --><meta charset=gb2312>" + "中文網頁".encode("gb18030"), None,
         "<!-- <meta charset=koi8-r> --><meta charset=gb2312>中文網頁"),
        ("日本語のページ".encode("cp932"), "Shift_JIS", "日本語のページ"),
        ("日本語".encode("iso2022_jp"), "iso-2022-jp", "日本語"),
        (b"<meta charset=iso-2022-jp>" + "日本語".encode("iso2022_jp"), None, "<meta charset=iso-2022-jp>日本語"),
        ("한국어".encode("cp949"), "ks_c_5601-1987", "한국어"),
        ("שלום עולם".encode("cp1255"), "windows-1255", "שלום עולם"),
        (b"<meta charset=utf-16>" + GERMAN.encode(), None, "<meta charset=utf-16>" + GERMAN),
        (b"<meta charset=zlib>" + GERMAN.encode("cp1252"), "idna", "<meta charset=zlib>" + GERMAN),
        (b"<meta charset=utf-8>" + GERMAN.encode("cp1252"), "utf-8", "<meta charset=utf-8>" + GERMAN),  # both wrong
        (GERMAN.encode() * 20 + b"\xc3", None, GERMAN * 20 + "\ufffd"),  # cut within a letter
        (b"a\0b", None, "ab"),
        (b"", None, ""),
        (b"", "utf-16", ""),
    ],
)  # fmt: skip
def test_pages_are_decoded_as_browsers_do(data: bytes, declared: str | None, text: str) -> None:
    assert decode_html(data, declared) == text


@given(
    st.binary(max_size=300),
    st.none() | st.text(max_size=12) | st.sampled_from(["utf-8", "utf-16", "big5", "hz", "rot13"]),
)
def test_nothing_raises_and_the_text_is_whole(data: bytes, declared: str | None) -> None:
    text = decode_html(data, declared)
    assert "\0" not in text
    text.encode()


@given(st.text().filter(lambda text: "\0" not in text and not text.startswith("\ufeff")))
def test_utf8_is_utf8(text: str) -> None:
    if "\x1b" not in text:
        assert decode_html(text.encode()) == text
