"""The main content of HTML pages: what is kept, as which Markdown, and what is dropped by which rule."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.html import Block, CostlyPageError, read_page
from humpback.corpus.segments import cut
from humpback.records import Document, Rejected, Segment

LONG = "Whisk the eggs with the sugar until they are pale, then fold in the flour. "
PARAGRAPH = f"<p>{LONG * 3}</p>"
TEXT = (LONG * 3).strip()


def page(body: str, head: str = "") -> str:
    return f"<!doctype html><html lang=en-GB><head>{head}</head><body>{body}</body></html>"


def texts(body: str) -> list[str]:
    return [block.text for block in read_page(page(body)).blocks if not block.level]


def headers(body: str) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in read_page(page(body)).blocks if block.level]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>One  two\n three.</p>", "One two three."),
        ("<p>First line<br>second line.</p>", "First line\nsecond line."),
        ("<p>Call <code>open()</code> twice.</p>", "Call `open()` twice."),
        ("<ul><li>eggs</li><li>flour</li></ul>", "- eggs\n- flour"),
        ("<ol><li>Mix.</li><li>Bake.</li></ol>", "1. Mix.\n2. Bake."),
        ("<ul><li>dry<ul><li>flour</li></ul></li><li>wet</li></ul>", "- dry\n  - flour\n- wet"),
        ("<dl><dt>Zest<dd>The peel.</dl>", "Zest\n: The peel."),
        ("<blockquote><p>Said once.</p></blockquote>", "> Said once."),
        ("<pre>a  = 1\n  b\n</pre>", "```\na  = 1\n  b\n```"),
        (
            "<table><tr><th>what</th><th>how much</th></tr><tr><td>flour</td><td>200 g</td></tr></table>",
            "| what | how much |\n| --- | --- |\n| flour | 200 g |",
        ),
        ("<p>AT&amp;T &eacute;t&eacute; &#8212; &nbsp;x &bogus; y</p>", "AT&T été — x &bogus; y"),
    ],
)
def test_elements_become_markdown(body: str, expected: str) -> None:
    assert expected in texts(PARAGRAPH + body + PARAGRAPH)


def test_table_that_lays_out_the_page_leaves_its_text_as_it_is() -> None:
    body = f"<table><tr><td>{PARAGRAPH}<h2>Oven</h2>{PARAGRAPH}</td><td>{PARAGRAPH}</td></tr></table>"
    assert texts(body) == [TEXT, TEXT, TEXT]
    assert headers(body) == [(2, "Oven")]


def test_code_that_holds_a_fence_gets_a_longer_one() -> None:
    assert texts(f"{PARAGRAPH}<pre>```\nx\n```</pre>{PARAGRAPH}")[1] == "````\n```\nx\n```\n````"


@pytest.mark.parametrize(
    "around",
    [
        "<nav>{}</nav>",
        "<footer>{}</footer>",
        "<aside>{}</aside>",
        "<div hidden>{}</div>",
        "<div style='color:red; display: none'>{}</div>",
        "<div role=navigation>{}</div>",
        "<div class='cookie-consent'>{}</div>",
        "<div id=comments>{}</div>",
        "<div class='shareButtons'>{}</div>",
        "<section class=related-posts>{}</section>",
        "<div class='mainSidebar'>{}</div>",
        "<script>{}</script>",
        "<style>{}</style>",
        "<template>{}</template>",
        "<noscript>{}</noscript>",
        "<select><option>{}</select>",
        "<!-- {} -->",
    ],
)
def test_boilerplate_is_dropped(around: str) -> None:
    assert texts(PARAGRAPH + around.format("Elsewhere on this site, people say other things.") + PARAGRAPH) == [
        TEXT,
        TEXT,
    ]


@pytest.mark.parametrize(
    "names",
    ["class=has-sidebar", "class='layout no-comments'", "id=main class='menu-open'", "class='article with-related'"],
)
def test_name_that_tells_of_the_layout_drops_nothing(names: str) -> None:
    assert texts(f"<div {names}>{PARAGRAPH * 3}</div>") == [TEXT] * 3


def test_list_of_links_is_dropped_and_a_list_with_a_link_is_not() -> None:
    links = "<ul>" + "<li><a href=x>Another page of ours</a></li>" * 6 + "</ul>"
    steps = "<ul><li>Beat the <a href=x>eggs</a> well.</li><li>Bake for an hour.</li></ul>"
    assert texts(PARAGRAPH + links + steps + PARAGRAPH) == [TEXT, "- Beat the eggs well.\n- Bake for an hour.", TEXT]


def test_main_part_is_taken_when_it_holds_most_of_the_text() -> None:
    aside = "<div><p>Our shop sells many other things, and this line is about them.</p></div>"
    assert texts(f"{aside}<main>{PARAGRAPH * 4}</main>{aside}") == [TEXT] * 4


@pytest.mark.parametrize(
    "part",
    [
        f'<p><a id="oven"/>{LONG * 3}</p>',  # in HTML it stays open: all of it would be a link
        f'<section id="how-do-i-share-a-pan"><h2>How do I share a pan?</h2>{PARAGRAPH}</section>',
        f'<h2 id="sugar-cookies">Sugar cookies</h2>{PARAGRAPH}',
        f"<h2>Other methods</h2>{PARAGRAPH}",
        f"<h2>Cookie objects</h2>{PARAGRAPH}",
    ],
)
def test_part_of_a_manual_that_looks_like_boilerplate_is_kept(part: str) -> None:
    kept = texts(PARAGRAPH * 2 + part + PARAGRAPH)
    assert kept == [TEXT] * 4
    assert len(headers(PARAGRAPH * 2 + part + PARAGRAPH)) == part.count("<h2")


def test_terms_that_are_links_are_kept_in_a_list_of_definitions() -> None:
    body = f"<dl><dt><a href=/add>git-add(1)</a><dd>{LONG}</dl>"
    assert texts(PARAGRAPH + body) == [TEXT, f"git-add(1)\n: {LONG.strip()}"]


def test_list_inside_a_definition_keeps_its_marks() -> None:
    body = "<dl><dt id=window.overlay>Gray mode\u00b6<dd><ul><li>Treat as<li>Change to</ul></dl>"
    assert texts(PARAGRAPH + body + PARAGRAPH)[1] == "Gray mode\n  - Treat as\n  - Change to"


def test_section_beside_a_much_longer_one_belongs_to_the_main_part() -> None:
    body = f"<main><section><h2>Oven</h2>{PARAGRAPH * 20}</section><section><h2>Pan</h2>{PARAGRAPH}</section></main>"
    assert headers(body) == [(2, "Oven"), (2, "Pan")]


def test_section_of_comments_under_its_header_is_dropped() -> None:
    body = f"<h1>Cake</h1>{PARAGRAPH * 3}<h2>3 Comments</h2>{PARAGRAPH}<h2>Storing</h2>{PARAGRAPH}"
    assert headers(body) == [(1, "Cake"), (2, "Storing")]
    assert texts(body) == [TEXT] * 4


def test_header_without_text_below_it_is_dropped() -> None:
    body = f"<h1>Cake</h1><h2>Empty</h2><h2>Full</h2>{PARAGRAPH}<h2>Last</h2>"
    assert headers(body) == [(1, "Cake"), (2, "Full")]


@pytest.mark.parametrize(
    ("markup", "level"),
    [
        ("<div role=heading aria-level=3>Storing</div>", 3),
        ("<div role=heading>Storing</div>", 2),
        ("<p><b>Storing</b></p>", 6),
        ("<strong>Storing:</strong><br>", None),
        ("<p><font size=5>Storing</font></p>", 3),
        ("<font size='+2'><b>Storing</b></font><p></p>", 3),
        ("<h4><a href=#s>Storing</a> <a href=#s>¶</a></h4>", 4),
    ],
)
def test_headers_that_are_no_h1_to_h6(markup: str, level: int | None) -> None:
    found = headers(f"<h1>Cake</h1>{PARAGRAPH}{markup}{PARAGRAPH}")
    if level is not None:
        assert found == [(1, "Cake"), (level, "Storing")]


@pytest.mark.parametrize("line", ["<b>Stop here.</b>", "<b>Bake</b> for an hour", "<b>Figure 3. Batter</b>"])
def test_bold_sentence_part_or_caption_is_no_header(line: str) -> None:
    assert headers(f"<h1>Cake</h1>{PARAGRAPH}<p>{line}</p>{PARAGRAPH}") == [(1, "Cake")]


def test_header_that_was_never_closed_is_no_header() -> None:
    assert texts(f"<h2>{'<div>' + LONG * 3 + '</div>'}<div>{LONG * 3}</div>") == [TEXT, TEXT]


def test_head_says_title_licence_and_time() -> None:
    head = (
        "<title> How to\n bake </title><meta property='article:published_time' content='2021-05-04'>"
        "<link rel=license href='https://creativecommons.org/licenses/by/4.0/'>"
    )
    found = read_page(page(PARAGRAPH, head))
    assert (found.title, found.time) == ("How to bake", "2021-05-04")
    assert found.licence == "https://creativecommons.org/licenses/by/4.0/"


@pytest.mark.parametrize("html", ["", "   ", "<", "<html>", "no markup at all", "\x00", "<!-- never closed"])
def test_page_without_anything_gives_a_page(html: str) -> None:
    assert read_page(html).text() in ("", html.strip())


def test_page_names_the_rule_and_the_place_of_what_is_dropped() -> None:
    body = f"<nav><a href=x>Home page</a></nav><div id=c class='comments big'>Nice!</div>{PARAGRAPH}<p>Share this on your wall</p>"
    found = read_page(page(body))
    assert [(drop.rule, drop.where, drop.text, drop.chars) for drop in found.dropped] == [
        ("<nav>", "nav", "Home page", 8),
        ("named comments", "div#c.comments.big", "Nice!", 5),
        ("phrase around the content", "block", "Share this on your wall", 19),
    ]
    assert found.main_chars == len("".join(TEXT.split()))


@pytest.mark.parametrize(
    "body",
    [
        f"<aside>Of <b>another</b> thing</aside>{PARAGRAPH}",
        f"{PARAGRAPH}<pre>x = 1<button>Copy</button></pre>",
        f"<h1>Cake<a href=#cake>\u00b6</a></h1>{PARAGRAPH}<h2>`code` here [edit]</h2>{PARAGRAPH}",
        f"<dl><dt>Zest\u00b6<dd>{LONG}</dl>{PARAGRAPH}",
        f"<p>Call <code>open()</code> and <code>`x`</code>.</p>{PARAGRAPH}<ul><li><a href=x>All of it is link text</a></ul>",
        f"<table><caption>Amounts</caption><tr><th>a<th>b<tr><td>1 | 2<td><code>3</code></table>{PARAGRAPH}",
        f"{PARAGRAPH}<h2>3 Comments</h2>{PARAGRAPH}<h2>Related</h2><p>Other</p>",
    ],
)
def test_every_character_is_main_content_or_counted_by_a_rule(body: str) -> None:
    found = read_page(page(body))
    whole = LexborHTMLParser(page(body)).body
    assert whole is not None
    main = sorted(char for block in found.blocks for char in block.text if char.isalnum())
    dropped = [char for drop in found.dropped for char in drop.text if char.isalnum()]
    assert sorted([*main, *dropped]) == sorted(char for char in whole.text() if char.isalnum())
    assert found.main_chars + sum(drop.chars for drop in found.dropped) == len("".join(whole.text().split()))


def test_caption_of_a_table_stands_above_it() -> None:
    table = "<table><caption>Amounts</caption><tr><th>what<th>how much<tr><td>flour<td>200 g</table>"
    assert texts(PARAGRAPH + table + PARAGRAPH)[1] == "Amounts"


@pytest.mark.parametrize("header", ["More", "Share", "Other", "See also", "Weitere Hinweise"])
def test_prose_is_kept_under_a_header_of_things_around_the_content(header: str) -> None:
    body = f"<h1>Cake</h1>{PARAGRAPH * 3}<h2>{header}</h2>{PARAGRAPH * 3}<h2>Storing</h2>{PARAGRAPH}"
    assert headers(body) == [(1, "Cake"), (2, header), (2, "Storing")]
    assert texts(body) == [TEXT] * 7


@pytest.mark.parametrize(
    "section",
    [
        f"<h2>More</h2>{PARAGRAPH}",  # too little
        "<h2>More</h2>" + f"<h3>Another page</h3>{PARAGRAPH}" * 4,  # teasers
        f"<h2>More</h2><p><a href=x>{LONG * 2}</a>{LONG * 3}</p>" * 1,  # links
        f"<h2>3 Comments</h2>{PARAGRAPH * 4}",
        f"<h2>About the author</h2>{PARAGRAPH * 4}",
    ],
)
def test_teasers_links_and_what_others_wrote_are_dropped_under_such_a_header(section: str) -> None:
    assert texts(f"<h1>Cake</h1>{PARAGRAPH * 5}{section}<h2>Storing</h2>{PARAGRAPH}") == [TEXT] * 6


def test_text_puts_headers_and_blocks_in_order() -> None:
    found = read_page(page(f"<h1>Cake</h1>{PARAGRAPH}<h2>Icing</h2>{PARAGRAPH}"))
    assert found.blocks == (Block(1, "Cake"), Block(0, TEXT), Block(2, "Icing"), Block(0, TEXT))
    assert found.text() == f"# Cake\n\n{TEXT}\n\n## Icing\n\n{TEXT}"


def test_costly_page_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(CostlyPageError, match="elements are open at once"):
        read_page("<div>" * 100_000)


def segments(body: str, low: int = 100, high: int = 1000, head: str = "") -> list[Segment | Rejected]:
    document = Document(id="d", text=page(body, head), source_uri="u", location="f@0", format="html", time="2020")
    return list(cut(document, min_chars=low, max_chars=high))


def test_largest_subtree_within_the_limits_is_the_segment() -> None:
    body = f"<h1>Cakes</h1>{PARAGRAPH * 3}<h2>Sponge</h2>{PARAGRAPH}<h3>Icing</h3>{PARAGRAPH}<h2>Tarts</h2>{PARAGRAPH}"
    found = segments(body, high=600)
    assert [(one.header_path, len(one.text)) for one in found if isinstance(one, Segment)] == [
        ("Cakes > Sponge", 2 * len(TEXT) + len("\n\n### Icing\n\n")),
        ("Cakes > Tarts", len(TEXT)),
    ]
    assert [one.reason for one in found if isinstance(one, Rejected)] == ["too_long"]


def test_segment_lies_at_its_offset_in_the_main_content() -> None:
    body = f"<nav>x</nav><h1>Cakes</h1>{PARAGRAPH}<h2>Sponge</h2>{PARAGRAPH * 2}<h2>Tarts</h2>{PARAGRAPH}"
    whole = read_page(page(body)).text()
    found = [one for one in segments(body, high=500) if isinstance(one, Segment)]
    assert len(found) == 3
    for one in found:
        assert whole[one.offset : one.offset + len(one.text)] == one.text
        assert (one.location, one.time) == ("f@0", "2020")


def test_title_is_the_page_s_own_header_without_the_name_of_the_site() -> None:
    found = segments(f"<h1>Sponge cake</h1>{PARAGRAPH}", head="<title>Sponge cake | All About Baking</title>")
    assert [(one.header_path, one.title) for one in found if isinstance(one, Segment)] == [
        ("Sponge cake", "Sponge cake")
    ]


def test_page_of_boilerplate_alone_is_one_rejected_row() -> None:
    assert [one.reason for one in segments("<nav><a href=x>Home</a></nav>") if isinstance(one, Rejected)] == ["no_text"]


def test_dropped_prose_is_a_rejected_row_and_the_rest_is_counted() -> None:
    body = f"<nav>Home</nav><h1>Cake</h1>{PARAGRAPH * 3}<h2>3 Comments</h2>{PARAGRAPH * 2}<footer>By us</footer>"
    tally: Counter[str] = Counter()
    document = Document(id="d", text=page(body), source_uri="u", location="f@0", format="html")
    segment, row = cut(document, min_chars=100, max_chars=1000, tally=tally)
    assert isinstance(segment, Segment)
    assert isinstance(row, Rejected)
    assert row.reason == "not_main_content"
    kept = json.loads(row.row)
    assert kept["text"] == f"3 Comments\n\n{TEXT}\n\n{TEXT}"
    assert (kept["rule"], kept["source_uri"], kept["location"]) == ("section around the content", "u", "f@0")
    ink = len("".join(TEXT.split()))
    assert tally == {
        "page characters": 5 * ink + len("HomeCake3CommentsByus"),
        "dropped parts <nav>": 1,
        "dropped characters <nav>": 4,
        "dropped parts <footer>": 1,
        "dropped characters <footer>": 4,
        "dropped parts section around the content": 1,
        "dropped characters section around the content": 2 * ink + len("3Comments"),
    }


def test_costly_page_is_one_rejected_row() -> None:
    assert [one.reason for one in segments("<ul>" * 100_000) if isinstance(one, Rejected)] == ["costly_page"]
