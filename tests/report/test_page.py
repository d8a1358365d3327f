"""The report page: self-contained, escaped, and with the same figures as report.json."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from humpback.report import figures, plots
from humpback.report.page import write_report

EVIL = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)>\n  \"quoted\" & 'single' {{ 7*7 }}"


class Page(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def html(complete: Path) -> str:
    return (complete / "report" / "report.html").read_text(encoding="utf-8")


def _write(path: Path, data: dict[str, Any]) -> str:
    write_report(path, data)
    return path.read_text(encoding="utf-8")


def _hostile(value: Any) -> Any:
    """Return a copy in which every text of a pair is hostile."""
    if isinstance(value, dict):
        return {key: _hostile(item) for key, item in value.items()}
    return [_hostile(item) for item in value] if isinstance(value, list) else EVIL if isinstance(value, str) else value


def test_page_needs_no_script_and_no_other_file(html: str) -> None:
    page = Page(html)
    assert not set(page.tags) & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    names = {name for _, name, _ in page.attributes}
    assert not names & {"src", "srcset", "action", "style", "xlink:href"}
    assert not any(name.startswith("on") for name in names)
    assert all(value and value.startswith("#") for _, name, value in page.attributes if name == "href")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_page_states_its_content_security_policy_before_anything_else(html: str) -> None:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_hostile_text_of_pairs_is_shown_and_not_obeyed(tmp_path: Path, data: dict[str, Any]) -> None:
    tags = Page(_write(tmp_path / "plain.html", data)).tags
    data["best"], data["rejected"] = _hostile(data["best"]), _hostile(data["rejected"])
    page = Page(_write(tmp_path / "hostile.html", data))
    assert page.tags == tags
    assert page.text.count(EVIL) >= 2 * (len(data["best"]) + len(data["rejected"]))


def test_hostile_names_warnings_and_reasons_are_escaped(tmp_path: Path, data: dict[str, Any]) -> None:
    data["run"] = data["environment"]["platform"] = EVIL
    data["recipe"]["corpus"]["inputs"][0]["path"] = EVIL
    data["funnel"][1]["rejected"] = {EVIL: 3}
    data["curation"][0]["decision"]["warnings"] = [EVIL]
    data["curation"][0]["missing"] = {EVIL: {EVIL: 1}}
    data["audits"][0]["notes"] = data["verdict"] = [EVIL]
    page = Page(_write(tmp_path / "hostile.html", data))
    assert not page.tags["script"]
    assert not page.tags["img"]


def test_text_from_the_corpus_is_escaped_on_a_real_run(html: str, data: dict[str, Any]) -> None:
    shown = [row["response"] for row in data["best"] + data["rejected"]]
    assert any("<script>" in text for text in shown), "the generated corpus holds hostile documents"
    text = Page(html).text
    assert all(response in text for response in shown)


def test_lone_surrogate_does_not_cost_the_report(tmp_path: Path, data: dict[str, Any]) -> None:
    data["best"][0]["response"] = "before \ud800 after"
    assert "before ? after" in _write(tmp_path / "page.html", data)


def test_whitespace_of_a_response_is_kept(tmp_path: Path, data: dict[str, Any]) -> None:
    data["best"][0]["response"] = "def f():\n    return 1\n\n\tdone"
    page = _write(tmp_path / "page.html", data)
    assert '<div class="text response">def f():\n    return 1\n\n\tdone</div>' in page
    assert re.search(r"\.text \{[^}]*white-space: pre-wrap", page)


def test_figures_of_the_page_are_those_of_the_json(html: str, data: dict[str, Any]) -> None:
    rows = [
        re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", row)).strip() for row in re.findall(r"<tr>.*?</tr>", html, re.S)
    ]
    for row in data["funnel"]:
        numbers = [row["read"], row["kept"], sum(row["rejected"].values()), sum(row["failed"].values())]
        told = " ".join([row["name"], *(figures.count(number) for number in numbers), figures.reasons(row["rejected"])])
        assert told.strip() in rows
    for table in [*data["evaluation"]["response_nll"].values(), data["evaluation"]["instruction_nll"]]:
        for row in table["models"]:
            assert f"{row['model']} {row['value']:.3f} {row['low']:.3f} to {row['high']:.3f}" in rows
        for row in table["differences"]:
            told = f"{row['model']} {row['against']} {figures.difference(row['value'])} "
            told += f"{figures.interval(row, figures.difference)} {figures.judgement(row)}"
            assert told in rows
    for audit in data["audits"]:
        for entry in audit["signals"]:
            told = [f"{figures.auc(row['value'])} {figures.interval(row, figures.auc)}" for row in _kinds(entry)]
            assert any(all(part in row for part in [entry["signal"], *told]) for row in rows)
    for line in data["verdict"]:
        assert line.partition(", ")[2] in Page(html).text


def _kinds(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["auc"][kind] for kind in ("cut_end", "all")]


def test_missing_intervals_missing_signals_and_warnings_are_said(tmp_path: Path, data: dict[str, Any]) -> None:
    for table in data["evaluation"]["response_nll"].values():
        for row in table["models"] + table["differences"]:
            row["low"] = row["high"] = None
    data["audits"][0]["signals"][0].update(auc={}, missing=30, mean_true=None)
    data["audits"][0].update(best=None, best_auc=None)
    data["curation"][0]["decision"]["warnings"] = ["rating is no better than a coin"]
    data["curation"][0]["missing"] = {"rating": {"label_mass": 7}}
    data["rejected"] = []
    text = Page(_write(tmp_path / "page.html", data)).text
    for said in (
        "too few pairs",
        "no value",
        "rating is no better than a coin",
        "label_mass 7",
        "No pair was rejected",
    ):
        assert said in text
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_scripted_engine_is_named_as_what_it_is(html: str) -> None:
    assert "No model was trained." in html


@pytest.mark.parametrize(("low", "high"), [(2.735, 2.745), (-0.004, 0.001), (0.0, 0.0), (-3.0, 900.0), (1e-7, 2e-7)])
def test_scale_holds_its_values_and_has_few_ticks(low: float, high: float) -> None:
    scale = plots.scale_of([{"value": low, "low": low, "high": high}], 0.0)
    assert scale.low <= min(low, 0.0) < max(high, 1e-12) <= scale.high
    assert 2 <= len(scale.ticks) <= 4
    assert 0 <= scale.x(low) <= scale.x(high) <= plots.WIDTH


def test_funnel_bar_shows_a_single_failed_row_among_many() -> None:
    row = {"read": 100_000, "kept": 99_999, "rejected": {}, "failed": {"engine_error": 1}}
    assert 'class="failed"' in plots.funnel_bar(row, 100_000)
    assert 'width="0.40"' in plots.funnel_bar(row, 100_000)


def test_histogram_fills_the_bins_that_are_kept() -> None:
    picture = plots.histogram({"low": 1.0, "high": 5.0, "counts": [3, 0, 2, 4]}, "rating", cut=4.0)
    assert picture.count('class="hist below"') == 2
    assert picture.count('class="hist"') == 1
    assert 'class="cut"' in picture


def test_mean_over_all_corruptions_is_the_first_column_of_the_audit(html: str) -> None:
    audit = html[html.index('id="audit"') : html.index('id="curation"')]
    head = re.findall(r"<th[^>]*>([a-z_]+)", audit[audit.index("<thead>") : audit.index("</thead>")])
    assert head[:4] == ["signal", "all", "pairs", "missing"]
    rows = re.findall(r"<tr>(.*?)</tr>", audit[audit.index("<tbody>") : audit.index("</tbody>")], re.DOTALL)
    cells = {row.count("<th") + row.count("<td") for row in rows}
    assert cells == {len(head)}


def test_notes_of_an_audit_do_not_repeat_its_model(tmp_path: Path, data: dict[str, Any]) -> None:
    model = data["audits"][0]["model"]
    data["audits"][0]["notes"] = [f"{model}: too few pairs", "about all: nothing"]
    html = _write(tmp_path / "page.html", data)
    assert "<li>too few pairs</li>" in html
    assert "<li>about all: nothing</li>" in html


def test_kinds_of_a_scaling_study_are_told_apart_by_colour_and_place() -> None:
    row = {"value": 2.0, "low": 1.9, "high": 2.1}
    kinds = [plots.Fitted(name=name, points=[(10, row), (20, row)], slope=0.0, intercept=2.0) for name in "ab"]
    drawn = plots.fitted_lines(kinds, "e", "a plot")
    found = [re.findall(rf'<circle class="dot kind-{number}" cx="([\d.]+)"', drawn) for number in (0, 1)]
    assert [len(places) for places in found] == [2, 2]
    assert not set(found[0]) & set(found[1])
    assert re.findall(r'<text class="tick kind-(\d)"[^>]*>(\w)<', drawn) == [("0", "a"), ("1", "b")]
