"""Pages that somebody made to break a reader, and pages that nobody made with care: each gives outcomes, never an exception."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import pytest

from humpback.corpus.charset import decode_html
from humpback.corpus.hostile import MAX_ATTRIBUTES, MAX_CHOICES, MAX_OPEN, too_costly
from humpback.corpus.html import read_page
from humpback.corpus.segments import cut
from humpback.records import Document, Rejected, Segment

Form = Literal["plain", "markdown", "html"]
DEEP = 10_000
BIG = 2_000_000
NESTING = (
    "a abbr article b bdo big blockquote button center code dd details div dl dt em fieldset font form h1 h2 header i ins label li "
    "main math object ol option p path pre q ruby section select small span strong sub svg table tbody td template tr tt u ul x-y"
).split()
VOID_OR_RAW = (
    "br col hr img input link meta wbr script style textarea title noscript iframe plaintext frameset body".split()
)


def outcomes(text: str, form: Form = "html", *, min_chars: int = 1, max_chars: int = 3000) -> list[Segment | Rejected]:
    """Return what becomes of a document, and check what holds for each."""
    document = Document(id="a", text=text, source_uri="a", format=form)
    found = list(cut(document, min_chars=min_chars, max_chars=max_chars))
    assert found
    assert found == list(cut(document, min_chars=min_chars, max_chars=max_chars))
    for record in found:
        if isinstance(record, Segment):
            assert min_chars <= len(record.text) <= max_chars
        else:
            assert record.reason
            assert record.detail.startswith("a at character ")
            assert json.loads(record.row)["source_uri"] == "a"
    return found


def reasons(text: str, form: Form = "html") -> list[str]:
    return [record.reason if isinstance(record, Rejected) else "" for record in outcomes(text, form)]


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag", "div span section b font ul table blockquote object button template x-y svg math".split()
)
def test_elements_nested_too_deep_are_refused(tag: str) -> None:
    for end in ("", f"</{tag}>" * DEEP):
        page = "".join(f"<{tag} a{number}>" for number in range(DEEP)) + end
        assert too_costly(page.encode()) == f"more than {MAX_OPEN:,} elements are open at once"


@pytest.mark.parametrize(
    "before",
    [
        "<!-->",
        "<!--->",
        "<!-- --!>",
        "<a title='<script>'>x</a>",
        '<a title="<!--">x</a>',
        "<textarea><script></textarea>",
        "<title><!--</title>",
        "<script><!-- <script> </script> --></script>",
        "<script><!--> <script> </script>",
        "<a b=c='>x</a>",
        "<a ='>x</a>",
        "<a/='>x</a>",
    ],
)
def test_tags_hidden_from_a_careless_reader_are_counted(before: str) -> None:
    assert too_costly((before + "<div>" * 20_000).encode())


@pytest.mark.parametrize(
    "unit",
    [
        "<div><!--</div>-->",
        "<div><script></div></script>",
        "<div><a title='</div>'></a>",
    ],
)
def test_end_tags_that_end_nothing_do_not_hide_depth(unit: str) -> None:
    assert too_costly(unit.encode() * 20_000)


def test_a_tag_with_too_many_attributes_is_refused_however_they_are_written() -> None:
    count = 20_000
    for attribute in ("a{}=1 ", "a{} ", 'a{}=""', "a{}='>'", "a{}/", "a{} = b\n"):
        page = "<p " + "".join(attribute.format(number) for number in range(count)) + ">text"
        assert too_costly(page.encode() + b" " * 300_000) == f"a tag has {MAX_ATTRIBUTES:,} attributes or more", (
            attribute
        )
    assert too_costly(b"<p a=1 b=2>text</p>" * 50_000) is None


def test_formatting_that_is_begun_again_in_each_paragraph_is_refused() -> None:
    fonts = "".join(f"<font a{number}>" for number in range(800))
    page = f"<p>{fonts}" + "<p>x" * 6_000
    assert "begun again" in (too_costly(page.encode()) or "")


def test_a_list_with_too_many_choices_is_refused() -> None:
    options = "<option>x"
    assert "choices" in (too_costly(f"<select>{options * (MAX_CHOICES + 1)}".encode()) or "")
    assert too_costly(f"<select>{options * (MAX_CHOICES - 1)}</select>".encode()) is None


@pytest.mark.parametrize(
    "unit",
    [
        "<p>text",
        "<li>text",
        "<dt>term<dd>text",
        "<tr><td>a<td>b",
        "<br>",
        "<img src=a>",
        "<svg><path d='M0'/><g><rect/></g></svg>",
        "<svg><style><![CDATA[.a{fill:red}]]></style><path d='M0 0'/></svg>",
        "<!-- <div> <div> -->",
        "<script>var a = '<div><div>';</script>",
        "<style>a > b {}</style>",
        "<textarea><div></textarea>",
        "<a title='<div>' data-x=\"<ul><li>\">x</a>",
        "</div></p></table>",
    ],
)
def test_ordinary_markup_is_not_refused_however_much_of_it_there_is(unit: str) -> None:
    assert (
        too_costly(
            f"<table>{unit * 20_000}</table>".encode() if unit.startswith(("<tr", "<td")) else unit.encode() * 20_000
        )
        is None
    )


# -- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", NESTING)
@pytest.mark.parametrize("closed", [False, True])
def test_deep_nesting_gives_an_outcome(tag: str, closed: bool) -> None:
    inside = f"<{tag}>" * DEEP + "Some words in the middle." + f"</{tag}>" * (DEEP if closed else 0)
    outcomes(f"<body><h1>Deep</h1>{inside}<p>A last sentence.</p>")


@pytest.mark.parametrize("tag", [*NESTING, *VOID_OR_RAW])
def test_two_megabytes_of_one_tag_give_an_outcome(tag: str) -> None:
    document = Document(id="a", text=f"<{tag}>" * (BIG // (len(tag) + 2) // 10), source_uri="a", format="html")
    assert list(cut(document, min_chars=1, max_chars=3000))


WRITTEN: dict[str, Callable[[], str]] = {
    "NUL bytes": lambda: "<h1>T\0ea</h1><p>a\0b</p>\0<\0div>\0" * 100,
    "broken entities": lambda: "<p>&amp &#xD800; &#0; &#x110000; &#99999999999; &notit; &; &# &#x &amp" * 500,
    "lone surrogates": lambda: "<h1>a\ud800</h1><p id='\udfff' class='\ud800'>Text \udc00 of it.</p>" * 50,
    "control characters": lambda: (
        "<p>" + "".join(map(chr, range(1, 32))) + "\x7f\x80\x85\u2028\u2029\ufeff\ufffe\uffff</p>"
    ),
    "private use": lambda: "<h1>\ue000</h1><p>\ue000a\ue000b<br>c</p>",
    "right to left": lambda: (
        "<html dir=rtl><h1>\u05e9\u05dc\u05d5\u05dd</h1><p>\u202e\u0627\u0644\u0633\u0644\u0627\u0645 \u200fabc\u202c.</p>"
        * 20
    ),
    "CJK": lambda: (
        "<h1>\u304a\u8336</h1><p>\u304a\u6e6f\u3092\u6e67\u304b\u3057\u307e\u3059\u3002</p><h2>\u7eff\u8336</h2><p>\ud55c\uad6d\uc5b4 \U00020000</p>"  # noqa: E501
        * 20
    ),
    "huge attribute": lambda: f"<p class='{'x y ' * 500_000}' style='{'a' * BIG}'>Text of it.</p>",
    "huge text": lambda: "<p>" + "word " * 400_000,
    "one huge word": lambda: "<h1>" + "a" * BIG,
    "backticks in code": lambda: "<pre>" + "`" * BIG + "</pre>",
    "100,000 headers": lambda: "".join(f"<h{n % 6 + 1}>h</h{n % 6 + 1}>x" for n in range(100_000)),
    "100,000 cells in a row": lambda: "<table><tr>" + "<td>x</td>" * 100_000 + "</table>",
    "100,000 cells in rows": lambda: "<table>" + "<tr><td>x<td>y" * 50_000 + "</table>",
    "50,000 list levels": lambda: "<ul><li>x" * 50_000,
    "900 list levels": lambda: "<ul><li>x" * 450,
    "900 tables": lambda: "<table><tr><td>x" * 900,
    "unclosed comment": lambda: "<h1>a</h1><p>Text of it.</p><!-- <p>b",
    "unclosed script": lambda: "<h1>a</h1><p>Text of it.</p><script> <p>b",
    "unclosed style": lambda: "<h1>a</h1><p>Text of it.</p><style> <p>b",
    "unclosed textarea": lambda: "<h1>a</h1><p>Text of it.</p><textarea> <p>b",
    "unclosed title": lambda: "<title> <h1>a</h1><p>Text of it.</p>",
    "unclosed plaintext": lambda: "<h1>a</h1><p>Text of it.</p><plaintext> <p>b",
    "unclosed attribute": lambda: "<h1>a</h1><p>Text of it.</p><p class='",
    "unclosed header": lambda: "<h1>" + "<p>A paragraph of words." * 1000,
    "header level of many digits": lambda: f"<div role=heading aria-level={'9' * 5000}>a</div><p>Text of it.</p>",
    "header level zero": lambda: "<div role=heading aria-level=00>a</div><p>Text of it.</p>",
    "long title": lambda: f"<title>{'t' * 500_000}</title>" + "<h1>a</h1><p>Text of it.</p>" * 200,
    "two bodies": lambda: "<body a=1><p>Text of it.</p></body><body b=2><html c=3><p>More of it.</p>",
    "frames": lambda: "<frameset><frame src=a></frameset><noframes><p>Text of it.</p></noframes>",
    "misnested": lambda: "<b><p><i><table><b>x<tr><a><td></b></p></a><a></i>" * 200,
    "quotes all over": lambda: '<p title="a\'b" lang=\'c"d\' e=f"g>Text \'of "it.</p>' * 100,
    "less-than signs": lambda: "<" * 200_000,
    "ampersands": lambda: "&" * 200_000,
    "end tags": lambda: "</p></br></div></table></x>" * 20_000,
    "empty": lambda: "",
    "white space": lambda: " \n\t" * 100_000,
}


@pytest.mark.parametrize("form", ["html", "markdown", "plain"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_hostile_page_gives_an_outcome(name: str, form: Form) -> None:
    outcomes(WRITTEN[name](), form)


MARKDOWN: dict[str, Callable[[], str]] = {
    "quotes": lambda: "> " * DEEP + "# a",
    "quotes without blanks": lambda: ">" * DEEP + "a",
    "lists": lambda: "- " * DEEP + "# a",
    "numbered lists": lambda: "1. " * DEEP + "a",
    "quotes and lists": lambda: "> - " * DEEP + "a",
    "levels of a list": lambda: "".join("  " * level + "- a\n" for level in range(1_000)),
    "emphasis": lambda: "*a " * DEEP + "*" * DEEP,
    "links": lambda: "[" * DEEP + "](a)" * DEEP,
    "open links": lambda: "[a](" * DEEP,
    "images": lambda: "![" * DEEP,
    "tags": lambda: "<a " * DEEP,
    "backticks": lambda: "".join("`" * size + " " for size in range(500)),
    "fences": lambda: "```\n" * (DEEP + 1),
    "blanks in a line": lambda: "a" + " " * 200_000 + "b",
    "braces": lambda: " {#a" * DEEP,
    "backslashes": lambda: "\\" * DEEP,
    "underlines": lambda: "a\n=\n" * DEEP,
    "a long underlined paragraph": lambda: "a\n" * DEEP + "===\n",
    "definitions": lambda: "[a]: <b> 'c\n" * DEEP,
    "front matter": lambda: "---\na: b\n" * DEEP,
    "lone returns": lambda: "\r" * DEEP,
    "HTML": lambda: "<div>\n" * DEEP,
}


@pytest.mark.parametrize("form", ["markdown", "plain"])
@pytest.mark.parametrize("prefix", ["# ", "# Tea\n\n", ""])
@pytest.mark.parametrize("name", MARKDOWN)
def test_hostile_markdown_gives_an_outcome(name: str, prefix: str, form: Form) -> None:
    outcomes(prefix + MARKDOWN[name](), form)


def test_mixed_encodings_give_text_and_an_outcome() -> None:
    pieces = ["Tee f\u00fcr zwei. ".encode(code) for code in ("utf-8", "latin-1", "utf-16-le", "cp1252")]
    pieces += [
        "\u304a\u8336\u3067\u3059\u3002".encode(code) for code in ("shift_jis", "euc_jp", "gb18030", "big5hkscs")
    ]
    page = b"<meta charset=shift_jis><h1>Tee</h1><p>" + b"</p><p>".join(pieces)
    for declared in (None, "utf-8", "utf-16", "nonsense"):
        outcomes(decode_html(page, declared))


def test_a_header_level_is_one_to_six() -> None:
    levels = []
    for stated in ("0", "00", "1", "7", "9" * 5000, "\u00b2", "x", ""):
        page = read_page(f"<div role=heading aria-level='{stated}'>Tea</div><p>Text of some length, a sentence.</p>")
        levels.append(page.blocks[0].level)
    assert levels == [1, 1, 1, 6, 6, 2, 2, 2]


def test_code_is_fenced_by_more_backticks_than_it_holds() -> None:
    (block,) = read_page("<pre>a ````` b\n``` c</pre>").blocks
    assert block.text == "``````\na ````` b\n``` c\n``````"


def test_a_long_title_is_cut() -> None:
    assert len(read_page(f"<title>{'t' * 5000}</title><p>x").title) == 300


def test_a_costly_page_costs_one_rejected_row() -> None:
    assert reasons("<div>" * 20_000 + "text") == ["costly_page"]


@pytest.mark.slow
def test_the_parser_survives_the_deepest_pages_that_are_let_through() -> None:
    # A crash would end this process: hence another one.
    code = (
        "from humpback.corpus.segments import cut\nfrom humpback.records import Document\nimport sys\n"
        "for tag in sys.argv[1:]:\n for n in (990, 4900, 9900):\n  for end in ('', f'</{tag}>'):\n"
        "   text = f'<{tag}>' * n + 'words ' + end * (n if n < 5000 else 0)\n"
        "   list(cut(Document(id='a', text=text, source_uri='a', format='html'), min_chars=1, max_chars=3000))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *NESTING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
