"""Whether a segment's licence is on the recipe's allow-list, however the two are spelt.

Corpora state licences as SPDX ids ("CC-BY-SA-4.0"), as addresses of Creative Commons or GNU, or in words ("Creative Commons
Attribution 4.0 International"). All are brought to SPDX ids before they are compared. What is not understood compares as
it stands, apart from case: an unknown licence never passes as a known one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["licence_allowed", "normalise_licence"]

_SHOWN = 80
_CC_ADDRESS = re.compile(
    r"creativecommons\.org/(?:licenses/(?P<kind>[a-z]+(?:-[a-z]+)*)(?:/(?P<version>\d\.\d))?(?P<port>/[a-z]{2}\b)?"
    r"|publicdomain/(?P<public>zero|mark))"
)
_CC_ID = re.compile(r"cc[ _-]*(?P<kind>by(?:[ _-]+(?:nc|nd|sa))*)(?:[ _-]*v?(?P<version>\d(?:\.\d)?))?(?P<rest>.*)")
_CC_WORDS = re.compile(
    r"(?:creative commons |cc )?attribution(?P<kind>(?:[ -]+(?:non-?commercial|share-?alike|no ?derivatives|no ?derivs))*)"
    r"(?: (?P<version>\d(?:\.\d)?))?(?P<rest>.*)"
)
_CC_REST = re.compile(
    r"(?: (?:international|unported|generic|public|licen[cs]e|\(?cc[ -]by(?:-[a-z]+)*(?:[ -]\d\.\d)?\)?|deed))*"
)
_VERSION = re.compile(
    r"(?P<name>[a-z][a-z ]*?)[ ,-]*(?:version |v)?(?P<version>\d(?:\.\d)?)(?P<later>\+| or later| or any later version"
    r"|-or-later)?(?P<only>-only| only)?"
)
_GNU_ADDRESS = re.compile(r"gnu\.org/licenses/(?:old-licenses/)?(?P<name>l?gpl|agpl|fdl)-(?P<version>\d\.\d)")
_ADDRESS = re.compile(r"^https?://(?:www\.)?")
_OR = re.compile(r"\s+or\s+", re.IGNORECASE)
_AND = re.compile(r"\s+and\s+|\s*(?<![:/])/(?!/)\s*", re.IGNORECASE)

_WORDS = {
    "cc0": "CC0-1.0",
    "cc0 1.0": "CC0-1.0",
    "cc0 1.0 universal": "CC0-1.0",
    "cc0-1.0": "CC0-1.0",
    "cc zero": "CC0-1.0",
    "creative commons zero": "CC0-1.0",
    "creative commons zero v1.0 universal": "CC0-1.0",
    "public domain": "public domain",
    "public-domain": "public domain",
    "publicdomain": "public domain",
    "pd": "public domain",
    "us public domain": "public domain",
    "public domain us": "public domain",
    "mit": "MIT",
    "expat": "MIT",
    "unlicense": "Unlicense",
    "isc": "ISC",
    "zlib": "Zlib",
    "wtfpl": "WTFPL",
    "psf": "PSF-2.0",
    "psf-2.0": "PSF-2.0",
    "python software foundation": "PSF-2.0",
    "new bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "apache 2": "Apache-2.0",
    "ogl": "OGL-UK",
    "opensource.org/licenses/mit": "MIT",
    "mit-license.org": "MIT",
    "unlicense.org": "Unlicense",
    "apache.org/licenses/license-2.0": "Apache-2.0",
    "apache.org/licenses/license-2.0.html": "Apache-2.0",
    "apache.org/licenses/license-2.0.txt": "Apache-2.0",
    "opensource.org/licenses/apache-2.0": "Apache-2.0",
}
_FAMILIES = {
    "apache": "Apache",
    "apache software": "Apache",
    "mpl": "MPL",
    "mozilla public": "MPL",
    "gpl": "GPL",
    "gnu gpl": "GPL",
    "gnu general public": "GPL",
    "lgpl": "LGPL",
    "gnu lgpl": "LGPL",
    "gnu lesser general public": "LGPL",
    "agpl": "AGPL",
    "gnu agpl": "AGPL",
    "gnu affero general public": "AGPL",
    "gfdl": "GFDL",
    "gnu fdl": "GFDL",
    "gnu free documentation": "GFDL",
    "odc-by": "ODC-By",
    "odbl": "ODbL",
    "ogl": "OGL-UK",
    "open government": "OGL-UK",
    "artistic": "Artistic",
    "psf": "PSF",
}
_GNU = frozenset(("GPL", "LGPL", "AGPL", "GFDL"))
_PARTS = (("noncommercial", "nc"), ("sharealike", "sa"), ("noderivatives", "nd"), ("noderivs", "nd"))


def licence_allowed(licence: str, allowed: Sequence[str]) -> str | None:
    """Return why the licence is not allowed, or None when it is; the empty list allows all, stated or not."""
    if not allowed:
        return None
    if not licence.strip():
        return "no licence is stated"
    names = frozenset(normalise_licence(name).casefold() for name in allowed)
    if _allows(licence, names):
        return None
    own, plain = normalise_licence(licence), licence.strip()
    shown = repr(plain[:_SHOWN]) + (f" ({own})" if own != plain else "")
    return f"licence {shown} is not among {', '.join(allowed)}"


def _allows(licence: str, names: frozenset[str]) -> bool:
    """Whether it is allowed: one of those joined by "or", each of those joined by "and" or "/"."""
    if normalise_licence(licence).casefold() in names:
        return True
    for joint, combine in ((_OR, any), (_AND, all)):
        parts = joint.split(licence)
        if len(parts) > 1:
            return combine(normalise_licence(part).casefold() in names for part in parts)
    return False


@lru_cache(maxsize=4096)
def normalise_licence(text: str) -> str:
    """Return the SPDX id of a licence given by id, name or address, else the text itself, stripped.

    "public domain" has no SPDX id and stays in words: it is not CC0. A Creative Commons or GNU licence without its version
    keeps the id without one ("CC-BY-SA"), which equals no version. A statement of several licences stays as it is.
    """
    plain = text.strip()
    folded = " ".join(plain.casefold().split()).rstrip(".")
    for read in (_by_address, _by_word, _creative_commons, _by_family):
        if found := read(folded):
            return found
    return plain


def _by_address(text: str) -> str | None:
    if len(text.split()) != 1:  # an address in a sentence may be that of anything
        return None
    if match := _CC_ADDRESS.search(text):
        if match["public"]:
            return "CC0-1.0" if match["public"] == "zero" else "public domain"
        if match["kind"] == "publicdomain":
            return "public domain"
        port = match["port"].upper().replace("/", "-") if match["port"] else ""
        return "-".join(filter(None, ("CC", match["kind"].upper(), match["version"]))) + port
    if match := _GNU_ADDRESS.search(text):
        name = match["name"].replace("fdl", "gfdl").upper()
        return f"{name}-{match['version']}-only"
    return _WORDS.get(_ADDRESS.sub("", text).rstrip("/")) if "/" in text or text.startswith("http") else None


def _bare(text: str) -> str:
    text = re.sub(r"\blicen[cs]ed? ?", "", text.removeprefix("the "))
    return re.sub(r"[()]", "", text).strip(" ,")


def _by_word(text: str) -> str | None:
    return _WORDS.get(text) or _WORDS.get(_bare(text))


def _creative_commons(text: str) -> str | None:
    match = _CC_ID.fullmatch(text) or _CC_WORDS.fullmatch(text)
    if not match or not _CC_REST.fullmatch(match["rest"]):
        return None
    kind = re.sub(r"[ _-]", "", match["kind"].removeprefix("by"))
    parts = []
    while kind:
        for name, short in (*_PARTS, *((short, short) for _, short in _PARTS)):
            if kind.startswith(name):
                parts.append(short)
                kind = kind.removeprefix(name)
                break
        else:
            return None
    ordered = [part for part in ("nc", "nd", "sa") if part in parts]
    version = match["version"] and (match["version"] if "." in match["version"] else f"{match['version']}.0")
    return "-".join(filter(None, ("CC-BY", *(part.upper() for part in ordered), version)))


def _by_family(text: str) -> str | None:
    match = _VERSION.fullmatch(_bare(text))
    if not match or not (family := _FAMILIES.get(match["name"].strip())):
        return None
    version = match["version"] if "." in match["version"] else f"{match['version']}.0"
    if family not in _GNU:
        return None if match["later"] or match["only"] else f"{family}-{version}"
    return f"{family}-{version}-{'or-later' if match['later'] else 'only'}"
