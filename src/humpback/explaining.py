"""`humpback ingest --explain`: finds the page and prints what ingest would do with it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from humpback.corpus.charset import decode_html
from humpback.corpus.explain import explain, explanation_lines, to_json_value
from humpback.corpus.overlap import Overlap
from humpback.corpus.readers import read_documents
from humpback.corpus.sniff import HEAD_BYTES, sniff
from humpback.errors import InputError
from humpback.recipe import CorpusInput, CorpusSettings
from humpback.records import Document, Rejected
from humpback.report.figures import clean
from humpback.stages.ingest import ingest

__all__ = ["find_document", "print_explanation"]

MAX_FETCHED_BYTES = 50_000_000
_TIMEOUT_S = 30
_URL = re.compile(r"https?://", re.IGNORECASE)
_PLACE = re.compile(r"[@#!]")
_LISTED = 5


def print_explanation(target: str, settings: CorpusSettings, *, search: bool, as_json: bool) -> None:
    """Print the header tree of the page and what becomes of it."""
    overlap = Overlap.load(settings.decontaminate) if settings.decontaminate else None
    explained = explain(
        find_document(target, settings, search=search),
        lambda document: ingest([document], settings, overlap=overlap),
        min_chars=settings.min_chars,
        max_chars=settings.max_chars,
    )
    if as_json:
        print(json.dumps(to_json_value(explained), indent=2))  # ASCII only
        return
    encoding = sys.stdout.encoding or "utf-8"
    for line in explanation_lines(explained):
        print(clean(line).encode(encoding, "replace").decode(encoding))


def find_document(target: str, settings: CorpusSettings, *, search: bool) -> Document:
    """Return the one document `target` names; with `search`, the first of the inputs with that address or location."""
    limit = settings.max_line_bytes
    if search:
        return _search(target, settings.inputs, limit)
    given = settings.inputs[0]
    if target == "-":
        return _read_bytes(sys.stdin.buffer.read(MAX_FETCHED_BYTES), "standard input", given, limit)
    if Path(target).is_file():
        return _only(target, read_documents([given.model_copy(update={"path": target})], max_record_bytes=limit))
    for cut in reversed([found.start() for found in _PLACE.finditer(target)]):
        if Path(target[:cut]).is_file():
            return _search(target, [given.model_copy(update={"path": target[:cut]})], limit)
    if _URL.match(target):
        data, charset = _fetch(target)
        if sniff(data[:HEAD_BYTES], "") in ("html", None):
            data = decode_html(data, charset).encode("utf-8-sig")
        return _read_bytes(data, target, given, limit)
    raise InputError(
        f"--explain {target}: no such file; give a file, FILE@BYTE or another location in a file, `-`, a URL, or name the "
        "INPUT that holds it"
    )


def _search(target: str, inputs: Iterable[CorpusInput], limit: int) -> Document:
    read, first = 0, ""
    for document in read_documents(list(inputs), max_record_bytes=limit):
        read += 1
        if isinstance(document, Document):
            if target in (document.source_uri, document.location):
                return document
            first = first or f", such as {document.location}"
        elif target in (row := json.loads(document.row)).values() or row.get("location") == target:
            raise InputError(f"--explain {target} gives no page: {document.reason}: {document.detail}")
    names = ", ".join(given.path for given in inputs)
    raise InputError(
        f"--explain {target} is not among the {read:,} records of {names}; give its address or location{first}"
    )


def _only(target: str, found: Iterable[Document | Rejected]) -> Document:
    """Return the one document of a file; of several, say how each is named."""
    documents: list[Document] = []
    faults: list[Rejected] = []
    for record in found:
        if isinstance(record, Rejected):
            faults.append(record)
        else:
            documents.append(record)
        if len(documents) > _LISTED:
            break
    if not documents:
        told = f"{faults[0].reason}: {faults[0].detail}" if faults else "it is empty"
        raise InputError(f"--explain {target} gives no page: {told}")
    if len(documents) > 1:
        listed = "\n".join(f"  {document.location or document.source_uri}" for document in documents[:_LISTED])
        raise InputError(f"--explain {target} holds several documents; give one of them:\n{listed}\n  ...")
    return documents[0]


def _read_bytes(data: bytes, name: str, given: CorpusInput, limit: int) -> Document:
    kind = sniff(data[:HEAD_BYTES], "") or ("html" if _URL.match(name) else None)
    suffix = {"html": ".html", "jsonl": ".jsonl"}.get(kind or "", "" if kind else ".md")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"page{suffix}")
        path.write_bytes(data)
        document = _only(name, read_documents([given.model_copy(update={"path": str(path)})], max_record_bytes=limit))
    own = document.source_uri if folder not in document.source_uri else name
    return dataclasses.replace(document, source_uri=own, location=name)


def _fetch(url: str) -> tuple[bytes, str | None]:
    request = urllib.request.Request(url, headers={"User-Agent": "humpback", "Accept": "text/html, text/*;q=0.9"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            data: bytes = answer.read(MAX_FETCHED_BYTES)
            return data, answer.headers.get_content_charset()
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        told = getattr(error, "reason", None) or error
        raise InputError(
            f"{url} cannot be fetched: {told}; check the address and the network, or save the page and give the file"
        ) from None
