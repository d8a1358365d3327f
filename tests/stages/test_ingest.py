"""Ingest: each piece of each document is kept or has one reason, and one bad page costs one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from humpback.recipe import CorpusSettings
from humpback.records import Document, Rejected, Segment, content_id
from humpback.stages import ingest as stage
from humpback.stages.ingest import DOCUMENTS, MASKED, UNREAD, ingest

PROSE = (
    "The garden is behind the house, and it has been there for as long as anyone can remember. In the spring we plant "
    "the beans along the wall, which keeps the wind from the north away. When the summer is dry, water has to be carried "
    "from the well at the end of the road. "
)
GERMAN = (
    "Der Garten liegt hinter dem Haus, und er ist dort schon so lange, wie sich irgendjemand erinnern kann. Im Frühling "
    "pflanzen wir die Bohnen an der Mauer, die den Wind aus dem Norden abhält. Wenn der Sommer trocken ist, muss das "
    "Wasser vom Brunnen am Ende der Straße geholt werden. "
)
ADDRESS = "Write to anna.schmidt@gmail.com about it. "


class Known:
    """An evaluation set that holds one sentence."""

    def find(self, text: str) -> str | None:
        return "test.jsonl: behind the house" if "behind the house" in text else None


def _settings(**changes: object) -> CorpusSettings:
    return CorpusSettings.model_validate({"inputs": [{"path": "any"}], "min_chars": 200, **changes})


def _document(text: str, **more: str) -> Document:
    return Document(id=content_id(text), text=text, source_uri="u", location="f.jsonl#L1", **more)  # type: ignore[arg-type]


def _only(document: Document, **changes: object) -> Segment | Rejected:
    (outcome,) = ingest([document], _settings(**changes))
    return outcome


def _reason(document: Document, **changes: object) -> str | None:
    outcome = _only(document, **changes)
    return outcome.reason if isinstance(outcome, Rejected) else None


def test_segment_carries_where_it_is_from_and_its_language() -> None:
    outcome = _only(_document(PROSE, time="2024-05-01", licence="CC0-1.0"))
    assert isinstance(outcome, Segment)
    assert (outcome.location, outcome.time, outcome.licence) == ("f.jsonl#L1", "2024-05-01", "CC0-1.0")
    assert outcome.language == "en"


def test_stated_language_is_believed_unless_the_recipe_asks() -> None:
    kept = _only(_document(GERMAN, language="fr"), filters=[])
    assert isinstance(kept, Segment)
    assert kept.language == "fr"
    checked = _only(_document(GERMAN, language="fr"), languages=["de"])
    assert isinstance(checked, Segment)
    assert checked.language == "de"


def test_other_languages_and_uncertain_ones_are_rejected() -> None:
    assert _reason(_document(GERMAN), languages=["en"]) == "language"
    assert _reason(_document(PROSE), languages=["en", "de"]) is None
    assert _reason(_document(PROSE), languages=["en"], min_language_score=1.0) in (None, "language")


def test_licences_that_are_not_allowed_or_not_stated_are_rejected() -> None:
    assert _reason(_document(PROSE, licence="CC-BY-4.0"), licences=["CC-BY-4.0"]) is None
    assert _reason(_document(PROSE, licence="all rights reserved"), licences=["CC-BY-4.0"]) == "licence"
    assert _reason(_document(PROSE), licences=["CC-BY-4.0"]) == "licence"


def test_masked_text_keeps_the_id_of_the_original() -> None:
    tally: Counter[str] = Counter()
    (masked,) = ingest([_document(PROSE + ADDRESS)], _settings(), tally=tally)
    kept = _only(_document(PROSE + ADDRESS), pii="keep")
    assert isinstance(masked, Segment)
    assert isinstance(kept, Segment)
    assert "anna" in kept.text
    assert masked.text == kept.text.replace("anna.schmidt@gmail.com", "<email>")
    assert masked.id == kept.id
    assert tally == Counter({DOCUMENTS: 1, f"{MASKED}email": 1})


def test_personal_data_is_a_reason_when_asked_for() -> None:
    outcome = _only(_document(PROSE + ADDRESS), pii="reject")
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.detail) == ("pii", "holds 1 email")
    assert _reason(_document(PROSE), pii="reject") is None


def test_text_that_is_too_short_once_masked_is_rejected() -> None:
    text = (PROSE + ADDRESS).strip()
    assert _reason(_document(text), min_chars=len(text)) == "too_short"
    assert _reason(_document(text), min_chars=len(text), pii="keep") is None


def test_texts_of_an_evaluation_set_are_rejected() -> None:
    (outcome,) = ingest([_document(PROSE)], _settings(), overlap=Known())
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.detail) == ("contaminated", "test.jsonl: behind the house")


@pytest.mark.parametrize("error", [RecursionError("too deep"), MemoryError(), RuntimeError("no document")])
def test_page_whose_parser_gives_up_costs_one_failed_row(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = stage.cut

    def cut(document: Document, **more: Any) -> Iterator[Segment | Rejected]:
        for piece in real(document, **more):
            yield piece
            if document.title == "Bad":
                raise error

    monkeypatch.setattr(stage, "cut", cut)
    bad = _document("# A\n\n" + PROSE + "\n\n# B\n\n" + PROSE * 900, title="Bad", format="markdown")
    found = list(ingest([_document(PROSE), bad, _document(PROSE)], _settings()))
    assert [type(row) for row in found] == [Segment, Segment, Rejected, Segment]
    row = found[2]
    assert isinstance(row, Rejected)
    assert (row.reason, row.failed) == ("parse_error", True)
    assert type(error).__name__ in row.detail
    assert "f.jsonl#L1" in row.detail
    assert len(row.row) < 105_000


def test_mistake_of_ours_is_not_taken_for_a_bad_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(document: Document, **more: int) -> Iterator[Segment | Rejected]:
        raise KeyError("a bug")
        yield

    monkeypatch.setattr(stage, "cut", cut)
    with pytest.raises(KeyError):
        list(ingest([_document(PROSE)], _settings()))


def test_documents_and_what_could_not_be_read_are_counted_apart() -> None:
    tally: Counter[str] = Counter()
    unread = Rejected(id="1", reason="not_json", detail="here")
    found = list(ingest([unread, _document(PROSE), _document("short")], _settings(), tally=tally))
    assert found[0] is unread
    assert tally == {UNREAD: 1, DOCUMENTS: 2}
    assert len(found) == 3
