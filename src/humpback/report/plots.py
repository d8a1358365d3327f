"""Small inline SVG pictures. Colours come from the page's style sheet by class, so that they follow light and dark.

Every function returns Markup; text from outside is escaped here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

__all__ = [
    "Fitted",
    "Scale",
    "axis",
    "curve",
    "dot_interval",
    "fitted_lines",
    "funnel_bar",
    "histogram",
    "lines",
    "scale_of",
]

WIDTH, HEIGHT, PAD = 190, 18, 17


class Scale(NamedTuple):
    """The range a column of dot plots shares, with its ticks and the value that means "no effect"."""

    low: float
    high: float
    ticks: tuple[float, ...]
    reference: float | None

    def x(self, value: float) -> float:
        """Pixels from the left; values outside stop at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return PAD + share * (WIDTH - 2 * PAD)


AUC_SCALE = Scale(0.0, 1.0, (0.0, 0.5, 1.0), 0.5)


def scale_of(rows: Iterable[Mapping[str, Any]], reference: float | None = None) -> Scale:
    """Return a scale with round ticks that holds every value and bound, and the reference."""
    values = [row[key] for row in rows for key in ("value", "low", "high") if row[key] is not None]
    values += [reference] if reference is not None else []
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / 2)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [index * step for index in range(first, last + 1)]
    return Scale(ticks[0], ticks[-1], tuple(ticks if len(ticks) <= 4 else ticks[:: len(ticks) - 1]), reference)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def axis(scale: Scale) -> Markup:
    """The tick labels that stand above a column of dot plots."""
    decimals = max(0, -math.floor(math.log10(scale.high - scale.low) - 0.5))
    marks = []
    for tick in scale.ticks:
        text = f"{tick:.{decimals}f}"
        marks.append(_tag('<text class="tick" x="{:.1f}" y="12" text-anchor="middle">{}</text>', scale.x(tick), text))
    return _svg("axis", WIDTH, HEIGHT, "scale", marks)


def dot_interval(row: Mapping[str, Any], scale: Scale, label: str) -> Markup:
    """One estimate: a dot, a line from low to high, and the reference line. `label` is read by a screen reader."""
    middle = HEIGHT / 2
    marks = []
    marks += [
        _tag('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>', scale.x(tick), HEIGHT)
        for tick in scale.ticks
    ]
    if scale.reference is not None:
        marks.append(
            _tag('<line class="ref" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>', scale.x(scale.reference), HEIGHT)
        )
    kind = "unsure"
    if row["low"] is not None:
        apart = scale.reference is None or not row["low"] <= scale.reference <= row["high"]
        kind = "sure" if apart else "unsure"
        line = '<line class="whisker {}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
        marks.append(_tag(line, kind, scale.x(row["low"]), scale.x(row["high"]), middle, middle))
    marks.append(_tag('<circle class="dot {}" cx="{:.1f}" cy="{}" r="4"/>', kind, scale.x(row["value"]), middle))
    return _svg("dots", WIDTH, HEIGHT, label, marks)


def funnel_bar(row: Mapping[str, Any], largest: int) -> Markup:
    """Rows read by one stage, split into kept, rejected and failed; `largest` fills the width."""
    parts = (("kept", row["kept"]), ("rejected", _total(row["rejected"])), ("failed", _total(row["failed"])))
    marks, left = [], 0.0
    for kind, number in parts:
        if number:
            width = max(100 * number / max(largest, 1), 0.4)  # a single failed row must be seen
            marks.append(_tag('<rect class="{}" x="{:.2f}" y="0" width="{:.2f}" height="10"/>', kind, left, width))
            left += width
    label = ", ".join(f"{kind} {number}" for kind, number in parts)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(marks))


def curve(rows: Sequence[Mapping[str, Any]], name: str, label: str) -> Markup:
    """A line over the models with an interval at each; a model without a value has no point."""
    width, height, left, foot = 240, 110, 44, 18
    points = [(index, row[name], row["model"]) for index, row in enumerate(rows) if row[name] is not None]
    scale = scale_of(value for _, value, _ in points)
    top, bottom = 10, height - foot - 6

    def y(value: float) -> float:
        return bottom - (value - scale.low) / (scale.high - scale.low) * (bottom - top)

    def x(index: int) -> float:
        return left + 14 + index * (width - left - 28) / max(len(rows) - 1, 1)

    marks = []
    for tick in scale.ticks:
        marks.append(
            _tag('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>', left, width, y(tick), y(tick))
        )
        marks.append(
            _tag('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:.3g}</text>', left - 4, y(tick) + 3, tick)
        )
    for (i, value, _), (j, following, _) in itertools.pairwise(points):
        ends = (x(i), y(value["value"]), x(j), y(following["value"]))
        marks.append(_tag('<line class="base" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>', *ends))
    for index, value, model in points:
        if value["low"] is not None:
            line = '<line class="whisker sure" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
            marks.append(_tag(line, x(index), y(value["low"]), y(value["high"])))
        marks.append(_tag('<circle class="dot sure" cx="{:.1f}" cy="{:.1f}" r="4"/>', x(index), y(value["value"])))
        marks.append(
            _tag('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>', x(index), height - 4, model)
        )
    return _svg("curve", width, height, label, marks)


def lines(curves: Mapping[str, Sequence[Sequence[float]]], label: str) -> Markup:
    """Curves of [x, value] over one axis, each with its name at its end: the first faint, the second strong, others thin."""
    width, height, left, right, top, bottom = 300, 140, 40, 88, 10, 106
    values = [value for points in curves.values() for _, value in points]
    last = max(x for points in curves.values() for x, _ in points)
    low, high = min(values), max(values)
    low, high = (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)

    def place(x: float, value: float) -> tuple[float, float]:
        return left + x / (last or 1) * (width - left - right), bottom - (value - low) / (high - low) * (bottom - top)

    marks = []
    for tick in (low, (low + high) / 2, high):
        y = place(0, tick)[1]
        marks.append(_tag('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>', left, width - right, y, y))
        marks.append(
            _tag('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:.2f}</text>', left - 4, y + 3, tick)
        )
    for kind, points in zip(
        itertools.chain(("faint", "strong"), itertools.repeat("thin")), curves.values(), strict=False
    ):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, value)) for x, value in points)
        marks.append(_tag('<polyline class="line {}" points="{}"/>', kind, path))
    lowest = -math.inf
    for name, points in sorted(
        curves.items(), key=lambda item: -item[1][-1][1]
    ):  # from above, so that none lies on another
        x, y = place(*points[-1])
        lowest = max(y, lowest + 11)
        marks.append(_tag('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>', x + 5, lowest + 3, name))
    for step, anchor in ((0, "start"), (last, "end")):
        x = place(step, low)[0]
        marks.append(
            _tag('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{:g}</text>', x, bottom + 14, anchor, step)
        )
    return _svg("lines", width, height, label, marks)


COLOURS = 4
"""Kinds that the style sheet tells apart."""
ASIDE = 5
"""Pixels that a kind's points stand right of the kind's before it: at one N they would hide each other."""


class Fitted(NamedTuple):
    """One kind's points over N, and the line value = slope * log(N) + intercept through them."""

    name: str
    points: Sequence[tuple[float, Mapping[str, Any]]]
    slope: float | None
    intercept: float | None


def fitted_lines(kinds: Sequence[Fitted], log_base: str | int, label: str) -> Markup:
    """Points with intervals over N on a logarithmic axis, and each kind's fitted line with its name at the end."""
    points = [(n, row) for kind in kinds for n, row in kind.points if n > 0]
    if not points:
        return Markup("")
    width, height, left, right, top, bottom = 460, 240, 52, 120, 12, 206
    unit = 1.0 if log_base == "e" else math.log(float(log_base))
    logs = [math.log(n) / unit for n, _ in points]
    first, last = min(logs), max(logs)
    scale = scale_of(row for _, row in points)

    def place(at: float, value: float) -> tuple[float, float]:
        x = left + 14 + (at - first) / ((last - first) or 1.0) * (width - left - right - 28)
        return x, bottom - (value - scale.low) / (scale.high - scale.low) * (bottom - top)

    marks = []
    for tick in scale.ticks:
        y = place(first, tick)[1]
        line = '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        marks.append(_tag(line, left, width - right, y, y))
        text = '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:.3g}</text>'
        marks.append(_tag(text, left - 4, y + 3, tick))
    for n in sorted({n for n, _ in points}):
        x = place(math.log(n) / unit, scale.low)[0]
        marks.append(
            _tag('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>', x, bottom + 16, round(n))
        )
    names: list[tuple[float, float, int]] = []
    for number, kind in enumerate(kinds):
        marks += _draw_kind(kind, number, place, unit)
        if kind.points:
            n, row = max(kind.points, key=lambda point: point[0])
            names.append((*place(math.log(max(n, 1)) / unit, row["value"]), number))
    lowest = -math.inf
    for x, y, number in sorted(names, key=lambda one: one[1]):  # from above, so that none lies on another
        lowest = max(y, lowest + 11)
        text = '<text class="tick kind-{}" x="{:.1f}" y="{:.1f}">{}</text>'
        marks.append(_tag(text, number % COLOURS, x + 9 + ASIDE * len(kinds), lowest + 3, kinds[number].name))
    return _svg("lines", width, height, label, marks)


def _draw_kind(
    kind: Fitted, number: int, place: Callable[[float, float], tuple[float, float]], unit: float
) -> list[Markup]:
    marks, colour, aside = [], number % COLOURS, ASIDE * number
    seen = sorted(((math.log(n) / unit, row) for n, row in kind.points if n > 0), key=lambda point: point[0])
    if kind.slope is not None and kind.intercept is not None and seen:
        ends = [place(at, kind.slope * at + kind.intercept) for at in (seen[0][0], seen[-1][0])]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)
        marks.append(_tag('<polyline class="line kind-{}" points="{}"/>', colour, path))
    for at, row in seen:
        x, y = place(at, row["value"])
        x += aside
        if row["low"] is not None:
            bounds = [place(at, row[key])[1] for key in ("low", "high")]
            line = '<line class="whisker kind-{3}" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
            marks.append(_tag(line, x, *bounds, colour))
        marks.append(_tag('<circle class="dot kind-{}" cx="{:.1f}" cy="{:.1f}" r="3"/>', colour, x, y))
    return marks


def histogram(data: Mapping[str, Any], label: str, cut: float | None = None) -> Markup:
    """Bars over equal bins; `cut` marks the lowest value kept, bins above it are filled."""
    width, height, foot = 240, 96, 16
    counts: Sequence[int] = data["counts"]
    low, high = data["low"], data["high"]
    bin_width, tallest = (high - low) / len(counts), max(counts)
    each = width / len(counts)
    marks = []
    for index, number in enumerate(counts):
        tall = number / tallest * (height - foot - 8)
        kept = cut is None or index == len(counts) - 1 or low + (index + 1) * bin_width > cut
        if number:
            marks.append(
                _tag(
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>',
                    "hist" if kept else "hist below",
                    index * each + 0.5,
                    height - foot - max(tall, 1),
                    each - 1,
                    max(tall, 1),
                )
            )
    marks.append(_tag('<line class="base" x1="0" x2="{0}" y1="{1}" y2="{1}"/>', width, height - foot))
    for x, anchor, value in ((0, "start", low), (width / 2, "middle", (low + high) / 2), (width, "end", high)):
        marks.append(
            _tag('<text class="tick" x="{}" y="{}" text-anchor="{}">{:.3g}</text>', x, height - 3, anchor, value)
        )
    if cut is not None and low <= cut <= high:
        x = (cut - low) / (high - low) * width
        marks.append(_tag('<line class="cut" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>', x, height - foot))
    return _svg("histogram", width, height, label, marks)


def _total(by_reason: Mapping[str, int]) -> int:
    return sum(by_reason.values())


def _tag(pattern: str, *values: object) -> Markup:
    return Markup(pattern).format(*values)


def _svg(kind: str, width: float, height: float, label: str, marks: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg class="{}" width="{}" height="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(kind, width, height, width, height, label, Markup("").join(marks))
