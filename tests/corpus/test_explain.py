"""`--explain`: every header of a page with the decision of the stage itself, in lines that fit a terminal."""

from __future__ import annotations

import functools
import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.corpus.explain import Explanation, explain, explanation_lines
from humpback.recipe import CorpusSettings
from humpback.records import Document, Segment
from humpback.stages.ingest import ingest

if TYPE_CHECKING:
    from tests.conftest import Command

LONG = (
    "The garden lies behind the house, and nobody knows who made it. In spring we sow beans along the wall, where they "
    "are safe from the wind. A dry summer means that water has to be carried from the well. Later there are apples, and "
    "the children take most of them to school. What is left goes into the cellar. "
)
OTHER = (
    "Watering is work for the evening. The ground should be wet to the depth of a hand, but no pool may stay on top of "
    "it. Old people here say that rain is worth twice as much as any can, and they are right about that. "
)
MARKDOWN = f"""# Garden

Short words.

## Beans

{LONG}

### Watering

{OTHER}

## ALL THE SHOUTING HEADERS

{LONG}

## Empty
"""
PAGE = f"""<!doctype html><html lang="en"><head><title>Garden</title></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop of the garden</a></nav>
<main><h1>Garden</h1><p>{LONG}</p><h2>Beans</h2><p>{OTHER}</p></main>
<footer>Copyright 2024 by the gardener</footer></body></html>"""


@pytest.fixture
def command(command: Command) -> Command:
    return functools.partial(command, "ingest")


def _settings(**changes: object) -> CorpusSettings:
    return CorpusSettings.model_validate({"inputs": [{"path": "-"}], "max_chars": 800, "min_chars": 200, **changes})


def _explain(text: str, form: str, settings: CorpusSettings | None = None) -> Explanation:
    settings = settings or _settings()
    document = Document(id="d", text=text, source_uri="https://example.org/garden", format=form)  # type: ignore[arg-type]
    return explain(
        document,
        lambda document: ingest([document], settings),
        min_chars=settings.min_chars,
        max_chars=settings.max_chars,
    )


def _decisions(explained: Explanation) -> dict[str, str]:
    return {node.header: node.decision for node in explained.nodes}


def test_every_header_has_the_decision_of_the_stage() -> None:
    explained = _explain(MARKDOWN, "markdown")
    assert _decisions(explained) == {
        "": "no text",
        "Garden": "too_short",
        "Beans": "segment",
        "Watering": "in the one above",
        "ALL THE SHOUTING HEADERS": "header_upper",
        "Empty": "no text",
    }
    assert [node.depth for node in explained.nodes] == [0, 1, 2, 3, 2, 2]
    beans = explained.nodes[2]
    assert beans.whole
    assert beans.own_chars == len(LONG.strip())
    assert beans.subtree_chars > beans.own_chars + len(OTHER)
    assert explained.nodes[1].detail == "12 characters, below min_chars=200"


def test_ids_are_those_of_the_stage() -> None:
    settings = _settings()
    document = Document(id="d", text=MARKDOWN, source_uri="https://example.org/garden", format="markdown")
    ids = [row.id for row in ingest([document], settings) if isinstance(row, Segment)]
    assert [node.id for node in _explain(MARKDOWN, "markdown").nodes if node.decision == "segment"] == ids


def test_dropped_parts_of_a_page_are_shown_with_their_rule() -> None:
    explained = _explain(PAGE, "html")
    assert _decisions(explained)["Beans"] in ("segment", "in the one above")
    dropped = {drop.rule: drop.text for drop in explained.dropped}
    assert any("Shop of the garden" in text for text in dropped.values())
    assert any("Copyright 2024" in text for text in dropped.values())
    lines = "\n".join(explanation_lines(explained))
    assert "are not main content" in lines
    assert "Shop of the garden" in lines


def test_ready_segments_are_explained_as_one_node() -> None:
    document = Document(id="d", text=LONG, source_uri="u", header_path="Garden > Beans")
    settings = _settings()
    explained = explain(document, lambda document: ingest([document], settings), min_chars=200, max_chars=800)
    assert [(node.header, node.decision) for node in explained.nodes] == [("Garden > Beans", "segment")]


def test_page_whose_parser_gives_up_is_told() -> None:
    def give_up(document: Document, **_: int) -> Any:
        raise RecursionError("too deep")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("humpback.stages.ingest.cut", give_up)
        lines = "\n".join(explanation_lines(_explain(MARKDOWN, "markdown")))
    assert "parse_error" in lines
    assert "too deep" in lines


def test_lines_fit_a_terminal_and_hold_nothing_that_steers_it(command: Command, tmp_path: Path) -> None:
    header = "An endless header " * 40
    path = tmp_path / "page.md"
    path.write_text(f"# {header}\n\n\x1b[31m{LONG}\n\n###### {header}\n\nshort \u202e\n", encoding="utf-8")
    ended = command("--explain", path, "--min-chars", "9", "--max-chars", "300")
    assert ended.status == 0, ended.err
    assert max(map(len, ended.out.splitlines()[1:])) <= 100
    assert not {"\x1b", "\u202e"} & set(ended.out)


def test_file_standard_input_and_json_tell_the_same(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    told = json.loads(command("--explain", tmp_path / "page.html", "--min-chars", "200", "--json").out)
    assert told["format"] == "html"
    assert told["segments"] == sum(node["decision"] == "segment" for node in told["tree"]) > 0
    assert {"header", "depth", "own_chars", "subtree_chars", "decision", "detail", "id"} <= told["tree"][0].keys()
    assert {"rule", "where", "text", "chars"} <= told["dropped"][0].keys()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PAGE.encode())))
    piped = json.loads(command("--explain", "-", "--min-chars", "200", "--json").out)
    assert piped["source_uri"] == "standard input"
    assert [node["decision"] for node in piped["tree"]] == [node["decision"] for node in told["tree"]]


def test_page_inside_an_input_is_found_by_address_or_location(command: Command, tmp_path: Path) -> None:
    rows = [
        {"text": MARKDOWN.replace("Beans", f"Beans {n}"), "source_uri": f"https://example.org/{n}"} for n in range(3)
    ]
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--format", "markdown", "--json")
    by_address = json.loads(command(path, "--explain", "https://example.org/1", *options).out)
    assert by_address["location"] == f"{path}#L2"
    by_location = json.loads(command("--explain", f"{path}#L2", *options).out)
    assert by_location == by_address
    assert "Beans 1" in {node["header"] for node in by_location["tree"]}
    missing = command(path, "--explain", "https://example.org/7")
    assert missing.status == 2
    assert "not among the 3 records" in missing.err
    assert f"such as {path}#L1" in missing.err
    several = command("--explain", path)
    assert several.status == 2
    assert "#L1" in several.err


def test_url_is_fetched_and_without_a_network_it_is_said(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(io.BytesIO):
        headers = type("Headers", (), {"get_content_charset": staticmethod(lambda: "iso-8859-1")})

    page = PAGE.replace("Garden", "Gärtnerei").encode("iso-8859-1")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(page))
    told = json.loads(command("--explain", "https://example.org/g", "--json").out)
    assert told["source_uri"] == "https://example.org/g"
    assert told["title"] == "Gärtnerei"

    def unreachable(*_: object, **__: object) -> object:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    ended = command("--explain", "https://example.org/g")
    assert ended.status == 2
    assert "Name or service not known" in ended.err
    assert "save the page" in ended.err


@pytest.mark.parametrize(("name", "words"), [("no.html", "no such file"), ("empty.html", "no page")])
def test_what_is_no_page_ends_with_2(command: Command, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty.html").write_text("", encoding="utf-8")
    ended = command("--explain", tmp_path / name)
    assert ended.status == 2
    assert words in ended.err
