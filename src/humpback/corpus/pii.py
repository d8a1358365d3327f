"""Personal data and secrets in a text: found as spans, or replaced by placeholders such as `<email>`.

A text comes in; e-mail and public IP addresses, phone numbers, payment cards, bank accounts, US social security numbers and keys
go out. FineWeb
(arXiv 2406.17557) masks e-mail and public IP addresses; the rest is ours, for the same reason: a tuned model must not
repeat them. Kept are what names nobody: addresses and numbers reserved for documentation (example.com, 192.0.2.0/24,
555-0123, card schemes' test numbers), private networks, and free-call numbers. A number counts only in a shape that numbers
of its kind have, and with a valid checksum where the kind has one: a missed number in an odd shape is possible, a masked
date, price, ISBN or version is the worse error in a how-to. Obfuscated addresses ("joe at example dot com") are not found.

Every pattern starts at a place its own match cannot straddle and has bounded repeats: time is proportional to the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from humpback.corpus.secrets import find_keys

__all__ = ["Kind", "Masked", "Pii", "find_pii", "mask_pii"]

Kind = Literal["email", "ip", "phone", "card", "iban", "ssn", "key"]

_MAX_LOCAL = 64
_LOCAL_MARKS = "_.+%'-"
_EMAIL = re.compile(r"(?<![\w+%/@-])[\w.+%'-]{1,64}@((?:[^\W_][\w-]{0,62}\.){1,8}[^\W\d_]{2,24})(?![\w@-])")
_RESERVED_DOMAIN = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|local|internal|(?:your|my)(?:domain|company|site)\.[a-z]+)$"
)
_NO_TLD = frozenset("png jpg jpeg gif svg webp css js ts json html htm php py md txt pdf service target timer".split())
_SERVICE_ACCOUNTS = frozenset(("git", "hg", "svn", "anonymous"))
"""Accounts of everybody, in addresses of repositories (`git@github.com:...`)."""

_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\w)")
_IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,34}(?![\w:])")
_VERSIONED = re.compile(
    r"(?:\b(?:versions?|ver|releases?|v|sections?|sec|chapter|clause|rule|part|table|figure|fig)\.?|[\w)]/|\u00a7)\s*$",
    re.I,
)
_ADDRESSED = re.compile(
    r"(?:\b(?:ips?|ipv4|address|addr|host|server|gateway|dns|ping|ssh|inet)\b|//)\W*(?:\w+\W+){0,2}$",
    re.I,
)
_MAX_SMALL = 30
"""Four numbers up to this are rather a version or a section number, unless the words before them speak of addresses."""
_RESOLVERS = frozenset(("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"))
_BEFORE = 40

_NUMBERS = re.compile(r"\d[\dA-Z ()./-]{5,}\d")
"""Phone numbers, cards, accounts and IPv4 addresses stand in such a run; the patterns for them look nowhere else."""
_RUN_BEFORE = 2
_RUN_AFTER = 6
"""What may be left of a number outside its run: `+`, `(` and a country's letters; an account's last letters, and a look ahead."""
_CALL_BEFORE = 32
_PHONE = re.compile(
    r"(?<![\w.+/=#$\u20ac\u00a3-])(?:"
    r"(?P<international>\+\d{1,3}(?:[ .-]?\(0?\d{0,4}\))?(?:[ .-]?\d{1,5}){2,6})"
    r"|(?P<nanp>(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4})"
    r"|(?P<french>0[1-9](?:[ .]\d\d){4})"
    r"|(?P<british>0(?:[12378]\d(?: \d{4}){2}|\d{3} \d{3} \d{3,4}|\d{4} \d{6}|\d{4} \d{3} \d{3}))"
    r"|(?P<bracketed>\(0(?:[12378]\d\) ?\d{4}|1\d{2}\) ?\d{3}|1\d{3}\) ?\d{3}|7\d{3}\) ?\d{3})[ -]?\d{3,4})"
    r"|(?P<dashed>0(?:2\d-\d{4}-\d{4}|1\d{2}-\d{3}-\d{4}|1\d{3}-\d{6}|7\d{3}-\d{6}|7\d{3}-\d{3}-\d{3}))"
    r")(?![\w/]|[.,-]\d| \d)"
)
_CALL = re.compile(
    r"\b(?:phone|telephone|tel|telefon|t\u00e9l\u00e9phone|t\u00e9l|tel\u00e9fono|telefono|telefoon|mobile|mobil|cell|fax|call|whatsapp"
    r"|hotline)"
    r"(?: (?:number|no|us|at|on|me))?[.:]*[ \t]{0,3}"
    r"(?P<number>\(?\d{2,5}\)?(?: ?[ /.-] ?\d{2,8}){1,4}|\d{7,12})(?![\w/]|[.,-]\d)",
    re.I,
)
_FREE_CALL = re.compile(r"\+?1?(?:800|888|877|866|855|844|833|822)\d{7}|(?:0|\+?44)(?:800|808)\d{6,7}")
_DRAMA = re.compile(r"\+?1?[2-9]\d\d55501\d\d|(?:0|\+?44)(?:7700900|2079460|1632960)\d{3}")
_NO_PHONE = re.compile(r"(?:isbn|issn|doi|rfc|iso|din|part no|model|version|\bid)\W*(?:\d+\W*)?$", re.I)

_SSN = re.compile(r"(?<![\w.+/-])(?!000|666|9)(\d{3})([ -]?)(?!00)(\d\d)\2(?!0000)(\d{4})(?![\w/-]|\.\d)")
"""A US social security number; no area begins with 9 or is 000 or 666, and no part is all zeros."""
_SAMPLE_SSNS = frozenset(("078051120", "219099999", "123456789", "457555462", "111111111", "333333333"))
_SOCIAL = re.compile(r"\b(?:ssns?|social[ -]security)\b[^\d\n]{0,30}$", re.I)
_NO_SSN = re.compile(r"(?:part|item|model|order|serial|catalog(?:ue)?|sku|isbn|ref(?:erence)?|no|nr|id)\W*$|#$", re.I)

_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_CARD_GROUPS = frozenset(((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (13,), (14,), (15,), (16,), (19,)))
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_TEST_CARDS = frozenset(
    "4111111111111111 4242424242424242 4012888888881881 4222222222222 4000056655665556 5555555555554444 5105105105105100"
    " 5200828282828210 2223003122003222 378282246310005 371449635398431 6011111111111117 6011000990139424 30569309025904"
    " 38520000023237 3530111333300000 3566002020360505 6200000000000005".split()
)
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")


class Pii(NamedTuple):
    """One finding."""

    kind: Kind
    start: int
    end: int
    """Behind its last character."""


class Masked(NamedTuple):
    """A text with placeholders."""

    text: str
    found: Mapping[str, int]
    """Kind to how many were replaced; kinds without any are absent."""


def find_pii(text: str) -> list[Pii]:
    """Return what is found, in order, never overlapping: of two that do, the earlier kind of this function's list counts."""
    found: list[Pii] = [Pii("key", key.start, key.end) for key in find_keys(text)]
    if "@" in text:
        found += _emails(text)
    if runs := [run.span() for run in _NUMBERS.finditer(text)]:
        found += (
            *_ibans(text, runs),
            *_cards(text, runs),
            *_ssns(text, runs),
            *_ipv4(text, runs),
            *_phones(text, runs),
        )
    if "::" in text or text.count(":") > 6:
        found += _ipv6(text)
    return _apart(found) if len(found) > 1 else found


def mask_pii(text: str) -> Masked:
    """Return the text with each finding replaced by its kind in angle brackets: `<email>`, `<ip>`, `<phone>` ..."""
    found = find_pii(text)
    if not found:
        return Masked(text, {})
    parts: list[str] = []
    start = 0
    for kind, begin, end in found:
        parts += (text[start:begin], f"<{kind}>")
        start = end
    return Masked("".join((*parts, text[start:])), Counter(kind for kind, _, _ in found))


_ORDER: dict[Kind, int] = {"key": 0, "email": 1, "iban": 2, "card": 3, "ssn": 4, "ip": 5, "phone": 6}


def _apart(found: list[Pii]) -> list[Pii]:
    """Drop every finding that overlaps one of a kind that goes before, or one that starts earlier."""
    kept: list[Pii] = []
    for one in sorted(found, key=lambda pii: pii.start):
        while kept and kept[-1].end > one.start and _ORDER[one.kind] < _ORDER[kept[-1].kind]:
            kept.pop()
        if not kept or kept[-1].end <= one.start:
            kept.append(one)
    return kept


def _around(
    pattern: re.Pattern[str], text: str, runs: Sequence[tuple[int, int]], before: int
) -> Iterator[re.Match[str]]:
    for start, end in runs:
        yield from pattern.finditer(text, max(0, start - before), end + _RUN_AFTER)


def _emails(text: str) -> Iterator[Pii]:
    at = text.find("@")
    while at >= 0:
        start = at
        while start > max(0, at - _MAX_LOCAL - 1) and (text[start - 1].isalnum() or text[start - 1] in _LOCAL_MARKS):
            start -= 1
        start += len(text[start:at]) - len(text[start:at].lstrip("'."))
        if (match := _EMAIL.match(text, start)) and _is_personal(text[start:at], match[1].casefold()):
            yield Pii("email", start, match.end())
        at = text.find("@", at + 1)


def _is_personal(local: str, domain: str) -> bool:
    if local.casefold() in _SERVICE_ACCOUNTS or _RESERVED_DOMAIN.search(domain):
        return False
    return domain.rsplit(".", 1)[-1] not in _NO_TLD


def _ipv4(text: str, runs: Sequence[tuple[int, int]]) -> Iterator[Pii]:
    for match in _around(_IPV4, text, runs, _RUN_BEFORE):
        if not _is_public(match[0]) or match[0] in _RESOLVERS:
            continue
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        if _VERSIONED.search(before) and not before.endswith("//"):
            continue
        parts = {int(part) for part in match[0].split(".")}
        if (max(parts) > _MAX_SMALL and len(parts) > 1) or _ADDRESSED.search(before):
            yield Pii("ip", match.start(), match.end())


def _ipv6(text: str) -> Iterator[Pii]:
    for match in _IPV6.finditer(text):
        if _is_public(match[0]):
            yield Pii("ip", match.start(), match.end())


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


def _phones(text: str, runs: Sequence[tuple[int, int]]) -> Iterator[Pii]:
    for pattern, group, before in ((_PHONE, 0, _RUN_BEFORE), (_CALL, "number", _CALL_BEFORE)):
        for match in _around(pattern, text, runs, before):
            number = "".join(char for char in match[group] if char.isdigit())
            if not 7 <= len(number) <= 15 or _FREE_CALL.fullmatch(number) or _DRAMA.fullmatch(number):
                continue
            if not _NO_PHONE.search(text[max(0, match.start() - _BEFORE) : match.start()]):
                yield Pii("phone", match.start(group), match.end(group))


def _cards(text: str, runs: Sequence[tuple[int, int]]) -> Iterator[Pii]:
    for match in _around(_CARD, text, runs, _RUN_BEFORE):
        number = re.sub(r"[ -]", "", match[0])
        groups = tuple(map(len, re.split(r"[ -]", match[0])))
        if groups in _CARD_GROUPS and _ISSUERS.fullmatch(number) and number not in _TEST_CARDS and _luhn(number):
            yield Pii("card", match.start(), match.end())


def _ssns(text: str, runs: Sequence[tuple[int, int]]) -> Iterator[Pii]:
    """Yield US social security numbers: with dashes (`536-22-1234`), or in another shape where the words before say so."""
    for match in _around(_SSN, text, runs, _RUN_BEFORE):
        if "".join(match.group(1, 3, 4)) in _SAMPLE_SSNS:
            continue
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        if _SOCIAL.search(before) or (match[2] == "-" and not _NO_SSN.search(before)):
            yield Pii("ssn", match.start(), match.end())


def _luhn(number: str) -> bool:
    """Whether the last digit is the checksum of ISO/IEC 7812-1 over the others."""
    doubled = "".join(str(int(digit) * (1 + place % 2)) for place, digit in enumerate(reversed(number)))
    return sum(map(int, doubled)) % 10 == 0


def _ibans(text: str, runs: Sequence[tuple[int, int]]) -> Iterator[Pii]:
    for match in _around(_IBAN, text, runs, _RUN_BEFORE):
        number = match[0].replace(" ", "")
        if 15 <= len(number) <= 34 and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1:
            yield Pii("iban", match.start(), match.end())
