"""The picture of what a set asks for: its commonest verbs as bars, cut into their commonest objects. In: `asked`. Out: SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

__all__ = ["verb_bars"]

WIDTH, ROW, NAME, BAR = 620, 16, 96, 220
SHADES = (1.0, 0.8, 0.62, 0.46)


def verb_bars(asked: Mapping[str, Any], label: str) -> Markup:
    """One bar per verb, as long as it is common; its objects from the left, the commonest darkest, the rest grey."""
    verbs = asked["verbs"]
    most = max((verb["n"] for verb in verbs), default=1)
    marks = []
    for place, verb in enumerate(verbs):
        top, left = place * ROW, float(NAME)
        marks.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
                NAME - 6, top + 11, verb["verb"]
            )
        )
        parts = [
            (one["n"], f'class="hist" fill-opacity="{shade}"')
            for one, shade in zip(verb["objects"], SHADES, strict=False)
        ]
        parts.append((verb["n"] - sum(number for number, _ in parts), 'class="hist below"'))
        for number, style in parts:
            if number:
                width = number / most * BAR
                rect = f'<rect {style} x="{left:.1f}" y="{top + 2}" width="{max(width - 0.6, 0.6):.1f}" height="{ROW - 4}"/>'
                marks.append(Markup(rect))  # numbers and our own words only
                left += width
        objects = ", ".join(f"{one['object']} {one['n']}" for one in verb["objects"]) or "no object"
        text = f"{verb['n']}: {objects}"
        marks.append(Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(left + 6, top + 11, text))
    height = max(len(verbs), 1) * ROW
    return Markup(
        '<svg class="verbs" width="{}" height="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, WIDTH, height, label, Markup("").join(marks))
