"""Coverage-guided fuzzing of what reads other people's bytes: `python tests/fuzz/fuzz.py html --seconds 60`.

In: the name of a target and a time. Out: status 0 when nothing was found; else the error, and the input that leads to it in a
file named `crash-…`. Needs `pip install -e '.[fuzz]'`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

Form = Literal["plain", "markdown", "html"]


def _check(text: str, form: Form) -> None:
    """Cut a document twice: the same both times, at least one outcome, nothing too long, nothing twice."""
    from humpback.corpus.segments import cut
    from humpback.records import Document, Segment

    document = Document(id="fuzz", text=text, source_uri="fuzz", format=form)
    found = list(cut(document, min_chars=20, max_chars=400))
    assert found, "no outcome"
    assert found == list(cut(document, min_chars=20, max_chars=400)), "another outcome the second time"
    segments = [record for record in found if isinstance(record, Segment)]
    assert all(20 <= len(segment.text) <= 400 for segment in segments), "a segment beyond the limits"
    assert len({segment.id for segment in segments}) == len(segments), "a segment twice"
    offsets = [segment.offset for segment in segments]
    assert offsets == sorted(offsets), "segments out of order"


def fuzz_html(data: bytes) -> None:
    from humpback.corpus.charset import decode_html

    _check(decode_html(data), "html")


def fuzz_markdown(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    _check(text, "markdown")
    _check(text, "plain")


def fuzz_charset(data: bytes) -> None:
    from humpback.corpus.charset import decode_html

    label = data[:12].decode("latin-1")
    for declared in (None, "utf-8", "gb2312", label):
        text = decode_html(data, declared)
        assert "\0" not in text
        text.encode()


def fuzz_warc(data: bytes) -> None:
    from humpback.corpus.place import Place
    from humpback.corpus.streams import open_stream, raw_chunks
    from humpback.corpus.warc import read_arc, read_warc
    from humpback.recipe import CorpusInput

    place = Place(name="fuzz.warc", given=CorpusInput(path="fuzz.warc"), max_record_bytes=100_000)
    for read in (read_warc, read_arc):
        ids = []
        for _ in range(2):
            stream, _packed = open_stream(raw_chunks(io.BytesIO(data), "fuzz.warc"))
            ids.append([(record.id, type(record)) for record in read(stream, place)])
            assert not stream.peek(1), "bytes are left"
        assert ids[0] == ids[1], "another outcome the second time"


_PAGE = (
    b"<!doctype html><html lang=en><head><meta charset=utf-8><title>Tea - A site</title></head><body><nav><a href=/>Home</a></nav>"
    b"<main><h1>Tea</h1><p>Green tea is <b>steeped</b> in cool water.<br>Two minutes are enough.</p><h2 id=b class='c d'>Black</h2>"
    b"<ol><li>Boil &amp; pour<li>Wait<ul><li>three</ul></ol><table><tr><th>Kind<th>Time</tr><tr><td>green<td>2</tr></table>"
    b"<pre>a\n```b</pre><dl><dt>leaf<dd>the part used</dl><blockquote>Fine.</blockquote></main><svg><path d='M0'/></svg>"
    b"<div role=heading aria-level=3>More</div><p style='display:none'>x</p><font size=5>Old</font><!-- c --><script>a<b</script>"
)
_MARKDOWN = (
    b"---\ntitle: Tea\n---\n# Tea\n\nText *a* `b` [c](d).\n\nSetext\n======\n\n> quote\n> # in\n\n- item\n  1. two\n\n"
    b"```py\n# no\n```\n"
    b"\n<div>\n# x\n</div>\n\n====\nRST\n====\n\n | a | b |\n\n[r]: http://x\n"
)
_HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<p>ab\r\n0\r\n\r\n"
_WARC = (
    b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: <http://a/>\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    b"Content-Type: application/http;msgtype=response\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (len(_HTTP), _HTTP)
)
_ARC = b"http://a/ 1.2.3.4 20200101000000 text/html %d\n%s\n" % (len(_HTTP), _HTTP)


def _packed() -> list[bytes]:
    import gzip

    import lz4.frame
    import zstandard

    return [gzip.compress(_WARC), lz4.frame.compress(_WARC), zstandard.ZstdCompressor().compress(_WARC)]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterable[bytes]]]] = {
    "html": (fuzz_html, lambda: [_PAGE, b"<table><tr><td><table><caption>", b"<svg><![CDATA[<p>]]><style><a>"]),
    "markdown": (fuzz_markdown, lambda: [_MARKDOWN, b">" * 30 + b"- - 1. # a", b"[[[](<\\>`*_~"]),
    "charset": (fuzz_charset, lambda: [_PAGE, b"\xef\xbb\xbfa", "\u65e5\u672c".encode("shift_jis"), b"\xff\xfea\0b\0"]),
    "warc": (fuzz_warc, lambda: [_WARC, _WARC * 3, _ARC, *_packed()]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("error: fuzzing needs atheris; install it with `pip install -e '.[fuzz]'`")
    with atheris.instrument_imports(include=["humpback.corpus", "markdown_it"]):
        import markdown_it  # noqa: F401

        import humpback.corpus.segments
        import humpback.corpus.warc  # noqa: F401
    run, seeds = TARGETS[given.target]
    folder = Path(tempfile.mkdtemp(prefix="humpback-fuzz-"))
    for number, seed in enumerate(seeds()):
        (folder / f"seed{number}").write_bytes(seed)
    limits = [f"-max_total_time={given.seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={os.getcwd()}/", str(folder)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
