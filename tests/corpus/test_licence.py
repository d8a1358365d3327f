from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.licence import licence_allowed, normalise_licence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://creativecommons.org/licenses/by-sa/4.0/deed.en", "CC-BY-SA-4.0"),
        ("http://creativecommons.org/licenses/by/3.0/us/", "CC-BY-3.0-US"),
        ("//creativecommons.org/licenses/by-nc-nd/2.5/", "CC-BY-NC-ND-2.5"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "public domain"),
        ("cc by 4.0", "CC-BY-4.0"),
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution 4.0 International License", "CC-BY-4.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0)", "CC-BY-NC-SA-4.0"),
        ("CC BY-SA", "CC-BY-SA"),
        ("CC0", "CC0-1.0"),
        ("Public Domain", "public domain"),
        ("Apache License 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("https://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        ("The MIT License", "MIT"),
        ("https://opensource.org/licenses/MIT", "MIT"),
        ("BSD 3-Clause License", "BSD-3-Clause"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GNU General Public License v3.0", "GPL-3.0-only"),
        ("https://www.gnu.org/licenses/gpl-3.0.html", "GPL-3.0-only"),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("  House rules of 1999. ", "House rules of 1999."),
        ("", ""),
    ],
)
def test_ids_words_and_addresses_of_a_licence_become_its_spdx_id(text: str, expected: str) -> None:
    assert normalise_licence(text) == expected


@given(st.text(max_size=60))
def test_a_normalised_licence_stays_as_it_is(text: str) -> None:
    once = normalise_licence(text)
    assert normalise_licence(once) == once


def test_spellings_of_one_licence_are_one() -> None:
    assert licence_allowed("https://creativecommons.org/licenses/by/4.0/", ["CC BY 4.0"]) is None
    assert licence_allowed("mit", ["The MIT License"]) is None
    assert licence_allowed("our own terms", ["Our own terms"]) is None


@pytest.mark.parametrize("licence", ["CC-BY-SA-4.0", "CC-BY-3.0", "CC-BY-NC-4.0", "CC-BY", "all rights reserved"])
def test_a_licence_that_is_only_alike_is_not_allowed_and_named(licence: str) -> None:
    found = licence_allowed(licence, ["CC-BY-4.0", "CC0-1.0"])
    assert found
    assert licence in found
    assert "CC-BY-4.0, CC0-1.0" in found


def test_an_unstated_licence_passes_only_the_empty_list() -> None:
    assert licence_allowed("", []) is None
    assert licence_allowed("anything", []) is None
    assert licence_allowed("  ", ["MIT"]) == "no licence is stated"


def test_of_a_choice_one_suffices_and_of_a_sum_all_are_needed() -> None:
    assert licence_allowed("MIT OR Apache-2.0", ["MIT"]) is None
    assert licence_allowed("GPL-2+ or CC-BY-SA-3.0", ["CC-BY-SA-3.0"]) is None
    assert licence_allowed("CC-BY-4.0 / OGL", ["CC-BY-4.0"])
    assert licence_allowed("CC-BY-4.0 and MIT", ["MIT", "CC-BY-4.0"]) is None
