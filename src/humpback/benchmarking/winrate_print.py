"""The report of `humpback winrate` for people. In: the report's JSON. Out: lines on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

__all__ = ["print_winrate", "tell"]


def tell(estimate: Mapping[str, object], unit: str = "%") -> str:
    """Return a value with its bootstrap interval, or why there is none."""
    value, low, high, reason = (estimate[key] for key in ("value", "low", "high", "reason"))
    if value is None:
        return f"none: {reason}"
    if low is None:
        return f"{value:.1f}{unit}, no interval: {reason}"
    return f"{value:.1f}{unit} ({low:.1f} to {high:.1f})"


def print_winrate(report: dict[str, object], folder: Path) -> None:
    """Print what the comparison found, what it could not judge, and how far the judge can be believed."""
    from humpback.report.figures import clean

    print(clean("\n".join(_lines(cast("dict[str, Any]", report), folder))))


def _lines(report: dict[str, Any], folder: Path) -> list[str]:
    rate, judge, cost = report["win_rate"], report["judge_figures"], report["cost"]
    lines = [
        f"{report['model']} against {report['baseline']}, judged by {report['judge']} in both orders",
        f"win rate        {tell(rate)}, n = {rate['n']}"
        + ("" if rate["low"] is None else "; 95 % by bootstrap over prompts"),
    ]
    if rate["normal_low"] is not None:
        lines.append(f"                normal interval {rate['normal_low']:.1f} to {rate['normal_high']:.1f}")
    if report["doubt"]:
        lines.append(f"warning         the judge is not to be believed here: {report['doubt']}")
        lines.append("                what follows is what it ruled, and says nothing of the answers")
    p = report["sign_test_p"]
    lines.append(
        f"                {report['wins']} wins, {report['losses']} losses, {report['ties']} ties"
        + (f"; sign test p = {p:.3g}" if p is not None else "")
    )
    lines.append(f"at equal length {tell(report['length_controlled'])}")
    lost = report["prompts"] - report["judged"]
    lines.append(
        f"not judged      {lost} of {report['prompts']} prompts: {report['without_output']} without an output, "
        f"{report['without_verdict']} without a verdict in both orders ({report['one_order_only']} in one)"
    )
    lines.append("rulings         " + ", ".join(f"{count} {kind}" for kind, count in report["rulings"].items()))
    for title, groups in (("category", report["by_category"]), ("length", report["by_length"])):
        lines += [f"{title:<15} {name}: {tell(row)}, n = {row['n']}" for name, row in groups.items() if row["n"]]
    lines += [
        f"judge           first place wins {tell(judge['first_place'])}; 50 % is no bias",
        f"                both orders agree {tell(judge['agreement'])}; {judge['flips_to_first']} prompts go to whichever is first, "
        f"{judge['flips_to_second']} to whichever is second",
        f"                alike when asked again {tell(judge['self_consistency'])}",
    ]
    if report["judge_is_a_side"]:
        lines.append("                it is one of the two models: it may prefer its own")
    for name, side in report["sides"].items():
        if side["cut"]:
            lines.append(f"cut             {side['cut']} outputs of {name} are as long as allowed (--max-new-tokens)")
        lines += [f"errors          {name}: {error}" for error in side["errors"]]
    lines.append(f"cost            {_tell_cost(cost)}")
    lines.append(f"files           {folder}")
    return lines


def _tell_cost(cost: dict[str, Any]) -> str:
    asked = f"{cost['judge_requests']:,} requests, {cost['from_cache']:,} from the cache"
    if not cost["sittings"]:
        return f"not this comparison's: all its answers were there before it ({asked})"
    sittings = "one sitting" if cost["sittings"] == 1 else f"{cost['sittings']} sittings"
    price = "" if cost["price"] is None else f", price {cost['price']:.4g}"
    return (
        f"{cost['judge_seconds']:.1f} s of judging in {sittings}, tokens {cost['tokens_in']:,} in, {cost['tokens_out']:,} out{price}; "
        f"this time {asked}"
    )
