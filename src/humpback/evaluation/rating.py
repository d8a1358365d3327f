"""Ratings from 1 to 5: read from the model's probabilities, or from sampled replies with reasoning, the paper's way.

In: pairs and `Raters`. Out: per pair its values, or `Missing` with the reason. A reply without a verdict is asked again once, and
counted by why it had none; a pair without any verdict has no value, which is never a low one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from humpback.engines.base import ChoiceLogprobs, Completion, Sampling
from humpback.evaluation.raters import ENGINE_ERROR, InstructionResponse, Missing, Raters, Values
from humpback.evaluation.verdicts import Verdict, read_verdict
from humpback.prompts import Prompt
from humpback.records import content_id
from humpback.store.fingerprint import derive_seed

__all__ = ["NOT_GIVEN", "NO_VERDICT", "REPLY_COUNTS", "count_replies", "rating", "sampled_rating"]

TOP_P = 0.9
"""Nucleus of the sampled replies, the paper's for augmenting; it reports none for rating."""
LABEL_CHARS = 20
"""What stands before a verdict on its line and is no longer than this is taken for part of it."""
NO_VERDICT = ("truncated", "unparsed", "out_of_range")
"""Why a reply gave no rating, and the first word of the reason when a pair has none for it."""
TOO_LONG = "too_long"
NOT_GIVEN = (*NO_VERDICT, TOO_LONG)
"""First word of the reason when a pair has no rating and no engine has failed."""
REPLY_COUNTS = ("parsed", *NO_VERDICT, "failed", "constrained", "resampled")
"""What is counted of a pair's replies, as `sampled_rating_NAME` among its scores.

Each reply is one of parsed, truncated, unparsed, out_of_range and failed (an engine's error). Of those without a verdict,
constrained and resampled say how many got one when asked again.
"""


def rating(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """Expected score, 1 to 5, from the model's probabilities of the five scores.

    `rating_label_mass` is their sum, `rating_entropy` how undecided the model is among them, in nats.
    """
    prompts = [raters.prompts.rate(pair.instruction, pair.response) for pair in pairs]
    asked = [prompt for prompt in prompts if prompt is not None]
    answers = iter(raters.model.choice_logprobs(asked, raters.prompts.rating_choices))
    values: list[Values | Missing] = []
    for prompt in prompts:
        if prompt is None:
            values.append(Missing(f"{TOO_LONG}: the rubric and the pair exceed {raters.prompts.max_tokens} tokens"))
            continue
        answer = next(answers)
        if answer.error:
            values.append(Missing(f"{ENGINE_ERROR}: {answer.error}", failed=True))
        elif answer.mass < raters.min_label_mass:
            values.append(Missing(f"unparsed: label mass {answer.mass:.3f} is below {raters.min_label_mass:g}"))
        else:
            values.append(
                {"rating": _expected(answer), "rating_label_mass": answer.mass, "rating_entropy": _entropy(answer)}
            )
    return values


def _entropy(answer: ChoiceLogprobs) -> float:
    total = math.fsum(map(math.exp, answer.logprobs))
    return -math.fsum(math.exp(logprob) / total * (logprob - math.log(total)) for logprob in answer.logprobs)


def _expected(answer: ChoiceLogprobs) -> float:
    shares = [math.exp(logprob) for logprob in answer.logprobs]
    return sum(score * share for score, share in enumerate(shares, start=1)) / sum(shares)


@dataclass(kw_only=True)
class _Reply:
    """One sampled reply and what came of it."""

    pair: int
    """Place of its pair."""
    prompt: Prompt
    again: int
    """Seed of a second draw."""
    kind: str = "failed"
    """`parsed`, or why it gave no verdict."""
    value: float | None = None
    reasoning: str = ""
    """The reply up to its verdict that could not be used."""
    error: str | None = None
    asked_again: str | None = None
    """`constrained` or `resampled`, when that gave it a verdict."""


def sampled_rating(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """Mean score, 1 to 5, of `raters.samples` replies that reason first, each read by its last verdict.

    A reply without a verdict is asked again once. Where the engine tells probabilities, its reasoning is kept and the score is
    the expected one of the five that may follow it (`constrained`); elsewhere the reply is drawn anew (`resampled`). Both count
    in the mean.
    """
    replies, too_long = _plan_replies(pairs, raters)
    sampling = Sampling(temperature=raters.sample_temperature, top_p=TOP_P, max_tokens=raters.reasoning_tokens)
    completions = raters.model.generate([reply.prompt for reply in replies], sampling)
    for reply, completion in zip(replies, completions, strict=True):
        _take(reply, completion, pairs[reply.pair].response)
    without = [reply for reply in replies if reply.kind in NO_VERDICT]
    if without and "choice_logprobs" in raters.model.capabilities:
        _constrain(without, raters)
    elif without and sampling.temperature:
        _resample(without, raters, sampling, pairs)
    by_pair: list[list[_Reply]] = [[] for _ in pairs]
    for reply in replies:
        by_pair[reply.pair].append(reply)
    reason = f"{TOO_LONG}: the rubric, the pair and a reply exceed {raters.prompts.max_tokens} tokens"
    return [Missing(reason) if place in too_long else _sum_up(group) for place, group in enumerate(by_pair)]


def _plan_replies(pairs: Sequence[InstructionResponse], raters: Raters) -> tuple[list[_Reply], set[int]]:
    """Return the replies to draw, and the places of pairs that do not fit whole."""
    replies: list[_Reply] = []
    too_long: set[int] = set()
    for place, pair in enumerate(pairs):
        pair_id = content_id(pair.instruction, pair.response)
        for number in range(raters.samples):
            seeds = [derive_seed(raters.random_seed, "sampled_rating", pair_id, number, draw) for draw in (0, 1)]
            prompt = raters.prompts.rate_sampled(
                pair.instruction, pair.response, reasoning_tokens=raters.reasoning_tokens, seed=seeds[0]
            )
            if prompt is None:
                too_long.add(place)
                break
            replies.append(_Reply(pair=place, prompt=prompt, again=seeds[1]))
    return replies, too_long


def _take(reply: _Reply, completion: Completion, judged: str) -> None:
    if completion.finish == "error" or completion.error:
        reply.error = completion.error or "no reason given"
        return
    verdict = read_verdict(completion.text, finish=completion.finish, judged=judged)
    reply.kind, reply.value = verdict.kind, verdict.value
    reply.reasoning = _before_verdict(completion.text, verdict)


def _before_verdict(text: str, verdict: Verdict) -> str:
    """Return the reasoning alone: a verdict that cannot be used would say what to answer."""
    if verdict.span is None:
        return text.rstrip()
    begin = verdict.span[0]
    line = max(text.rfind("\n", 0, begin), text.rfind("\r", 0, begin)) + 1
    label = begin - line <= LABEL_CHARS  # "**Final score: 10**": the line is the verdict's, markup and all
    return text[: line if label else begin].rstrip().rstrip("*_#>`[(\"'").rstrip()


def _constrain(replies: Sequence[_Reply], raters: Raters) -> None:
    prompts = [raters.prompts.rate_after(reply.prompt, reply.reasoning) for reply in replies]
    answers = raters.model.choice_logprobs(prompts, raters.prompts.rating_choices)
    for reply, answer in zip(replies, answers, strict=True):
        reply.error = answer.error
        if not answer.error and answer.mass >= raters.min_label_mass:
            reply.value, reply.asked_again = _expected(answer), "constrained"


def _resample(
    replies: Sequence[_Reply], raters: Raters, sampling: Sampling, pairs: Sequence[InstructionResponse]
) -> None:
    completions = raters.model.generate([replace(reply.prompt, seed=reply.again) for reply in replies], sampling)
    for reply, completion in zip(replies, completions, strict=True):
        second = _Reply(pair=reply.pair, prompt=reply.prompt, again=reply.again)
        _take(second, completion, pairs[reply.pair].response)
        reply.error = second.error
        if second.value is not None:
            reply.value, reply.asked_again = second.value, "resampled"


def _sum_up(replies: Sequence[_Reply]) -> Values | Missing:
    kinds = Counter(reply.kind for reply in replies) + Counter(r.asked_again for r in replies if r.asked_again)
    counts = {f"sampled_rating_{name}": float(kinds[name]) for name in REPLY_COUNTS}
    given = [reply.value for reply in replies if reply.value is not None]
    if given:
        return {"sampled_rating": sum(given) / len(given), **counts}
    error = next((reply.error for reply in replies if reply.error), None)
    if error:
        return Missing(f"{ENGINE_ERROR}: {error}", failed=True, counts=counts)
    word = max(NO_VERDICT, key=lambda name: kinds[name])
    told = ", ".join(f"{kinds[name]} {name}" for name in NO_VERDICT if kinds[name])
    return Missing(f"{word}: none of {len(replies)} replies gave a verdict ({told})", counts=counts)


def count_replies(scores: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Sum the replies' counts over the scores of many pairs; `retried` are the replies that had to be asked again."""
    totals: Counter[str] = Counter()
    for row in scores:
        if "sampled_rating_parsed" in row:
            totals.update(pairs=1, **{name: int(row[f"sampled_rating_{name}"]) for name in REPLY_COUNTS})
    retried = sum(totals[name] for name in NO_VERDICT)
    replies = totals["parsed"] + retried + totals["failed"]
    return {"pairs": totals["pairs"], "replies": replies, "retried": retried, **{n: totals[n] for n in REPLY_COUNTS}}
