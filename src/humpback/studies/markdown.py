"""A study's results as Markdown, with its plots as SVG files beside: what goes into a repository or a paper's notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from humpback.report.markdown import escape, listed, table_lines
from humpback.report.page import open_templates
from humpback.report.signs import sign_lines
from humpback.store.shards import atomic_write
from humpback.studies.page import (
    COMPARED,
    FITS,
    Row,
    compared_rows,
    failure_lines,
    fit_rows,
    headers,
    picture,
    setting_rows,
    tell_metric,
)

__all__ = ["write_markdown"]


def write_markdown(path: Path, name: str, found: Row) -> None:
    """Write `path`, and beside it a plot of each metric that was fitted, named after it."""
    lines = [f"# {escape(name)}: {found['study']} study", ""]
    for metric, told in found["metrics"].items():
        if not told["settings"]:
            continue
        lines += [f"## {escape(tell_metric(found, metric))}", ""]
        plot = picture(metric, told)
        if plot:
            file = path.with_name(f"{path.stem}-{metric}.svg")
            atomic_write(file, _standalone(str(plot)).encode())
            lines += [f"![{metric} by pairs trained on]({file.name})", ""]
        if told.get("doubts"):
            lines += [*listed(told["doubts"]), ""]
        lines += _tables(metric, told)
    if found["failed"]:
        lines += ["## Failed", ""]
        lines += [*listed(failure_lines(found)), ""]
    if found["notes"]:
        lines += ["## To bear in mind", "", *listed(found["notes"]), ""]
    atomic_write(path, "\n".join(lines).encode("utf-8", "replace"))


def _tables(metric: str, told: Row) -> Iterator[str]:
    if "fits" in told:
        yield from (f"{metric} = alpha * log(N) + C, N pairs trained on, log to base {told['log_base']}:", "")
        yield from (*table_lines(FITS, fit_rows(told)), "")
        if told["comparisons"]:
            yield from ("alpha of one kind minus another's, p corrected by Holm:", "")
            yield from (*table_lines(COMPARED, compared_rows(told)), "")
        yield from (*listed(sign_lines(told["signs"])), "")
    yield from ("Every setting, and its difference from the first, paired by pair and seed:", "")
    yield from (*table_lines(headers(told), setting_rows(told)), "")


def _standalone(plot: str) -> str:
    """Return the plot with its style and name space, as a file of its own needs them."""
    environment = open_templates()
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "page.css")[0]
    return plot.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style><![CDATA[{style}]]></style>", 1
    )
