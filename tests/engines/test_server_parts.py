"""The parts of the `server` engine that need no server: places, retries, replies, the estimating tokenizer, findings."""

from __future__ import annotations

import asyncio
import json
import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.engines.base import ModelRef
from humpback.engines.server import wire
from humpback.engines.server.access import read_key
from humpback.engines.server.client import Client
from humpback.engines.server.findings import Findings
from humpback.engines.server.identity import identify
from humpback.engines.server.limits import Limiter
from humpback.engines.server.retries import (
    LONGEST_WAIT_S,
    BadAnswerError,
    GaveUpError,
    backoff_s,
    judge_status,
    parse_retry_after,
)
from humpback.engines.server.tokens import EstimatingTokenizer
from humpback.errors import RecipeError
from humpback.prompts import Prompts
from humpback.recipe import Recipe, ServerSettings, check_section

FOUND = Findings(url="http://127.0.0.1:1", kind="other", models=("m",), model="m", answers_as="m", top_logprobs=2)
NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)


# -- places --------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answer_round(limiter: Limiter, clock: Clock, seconds: float) -> None:
    """Answer as many requests as are allowed at once, all of which took so long."""
    started = clock.now
    clock.now += seconds
    for _ in range(max(int(limiter.limit), 4)):
        limiter.answered(started, work=10.0)


def test_more_is_in_flight_while_more_is_answered() -> None:
    clock = Clock()
    limiter = Limiter(64, clock=clock)
    limits = []
    for _ in range(6):  # a reply takes as long however many there are
        answer_round(limiter, clock, 1.0)
        limits.append(int(limiter.limit))
    assert limits[:5] == [8, 16, 32, 64, 64]


def test_replies_that_only_wait_for_one_another_lower_the_number() -> None:
    clock = Clock()
    limiter = Limiter(1000, clock=clock)
    for _ in range(60):  # the server answers ten at once; more queue up
        answer_round(limiter, clock, max(int(limiter.limit), 10) / 10)
    assert 8 <= limiter.limit <= 32


def test_an_overload_halves_the_number_once_a_round_and_a_few_refusals_lower_it_less() -> None:
    clock = Clock()
    limiter = Limiter(64, clock=clock)
    for _ in range(4):
        answer_round(limiter, clock, 1.0)
    assert limiter.limit == 64
    for _ in range(64):
        limiter.overloaded()
    assert limiter.limit == 32
    for number in range(32):
        if number % 8:
            limiter.answered(clock.now - 1.0, 10.0)
        else:
            limiter.overloaded()
    assert 28 <= limiter.limit < 32


def test_a_server_that_fails_on_a_quarter_of_requests_is_still_asked_several_at_once() -> None:
    clock, dice = Clock(), random.Random(3)
    limiter = Limiter(64, clock=clock)
    limits = []
    for _ in range(300):
        started = clock.now
        clock.now += 1.0
        for _ in range(max(int(limiter.limit), 4)):
            if dice.random() < 0.25:
                limiter.overloaded()
            else:
                limiter.answered(started, 10.0)
        limits.append(limiter.limit)
    assert 4 < sum(limits[100:]) / 200 < 20


def test_the_number_never_falls_below_one_and_never_exceeds_the_most() -> None:
    clock, dice = Clock(), random.Random(1)
    limiter = Limiter(7, clock=clock)
    for _ in range(2000):
        clock.now += dice.random()
        if dice.random() < 0.4:
            limiter.overloaded()
        else:
            limiter.answered(clock.now - dice.random(), 5.0)
        assert 1 <= limiter.limit <= 7


def test_a_place_is_held_by_no_more_than_the_limit_and_given_on() -> None:
    async def work() -> int:
        limiter, held, most = Limiter(3), 0, 0

        async def hold() -> None:
            nonlocal held, most
            async with limiter.place():
                held += 1
                most = max(most, held)
                await asyncio.sleep(0)
                held -= 1

        await asyncio.gather(*(hold() for _ in range(50)))
        assert limiter.in_flight == 0
        return most

    assert asyncio.run(work()) == 3


# -- retries -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (" 0 ", 0.0),
        ("-3", 0.0),
        ("1.5", 1.5),
        ("Thu, 26 Nov 2026 12:00:30 GMT", 30.0),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_waits_are_spread_from_nothing_to_a_bound_that_doubles() -> None:
    dice = random.Random(0)
    for tries in range(1, 12):
        waits = [backoff_s(tries, dice) for _ in range(300)]
        bound = min(LONGEST_WAIT_S, 0.25 * 2**tries)
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound
    assert backoff_s(10**6, dice) <= LONGEST_WAIT_S


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "busy") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, "row") for status in (400, 413, 422, 501)),
        *((status, "key") for status in (401, 403)),
        *((status, "place") for status in (301, 307, 404)),
        (402, "quota"),
    ],
)
def test_a_status_says_whether_asking_again_may_help(status: int, kind: str) -> None:
    assert judge_status(status, {}, b"").kind == kind


def test_an_error_tells_the_servers_own_words_but_no_page() -> None:
    assert judge_status(400, {}, b'{"error": {"message": "too\\n long"}}').reason == "HTTP 400: too long"
    assert judge_status(400, {}, b'{"detail": "no"}').reason == "HTTP 400: no"
    assert judge_status(502, {}, b"<html><body>bad gateway</body></html>").reason == "HTTP 502"
    assert judge_status(429, {}, b'{"error": {"code": "insufficient_quota", "message": "pay"}}').kind == "quota"
    assert len(judge_status(500, {}, b"x" * 10**6).reason) < 400


# -- replies -------------------------------------------------------------------------------------------------------------


def reply(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": "so", "finish_reason": "stop", "logprobs": None} | changes.pop("choice", {})
    return {"model": "m", "choices": [choice], "usage": {"completion_tokens": 2}} | changes


def test_a_whole_reply_is_read() -> None:
    one = wire.read_completion(reply(choice={"text": "so and so"}), FOUND, ("and",))
    assert (one.text, one.tokens, one.finish, one.error) == ("so ", 2, "stop", None)
    cut = wire.read_completion(reply(choice={"finish_reason": "length"}), FOUND, ())
    assert cut.finish == "length"
    surrogate = wire.read_completion(reply(choice={"text": json.loads('"a\\ud800b"')}), FOUND, ())
    assert surrogate.text == "a?b"


@pytest.mark.parametrize(
    "spoilt",
    [
        None,
        [],
        "text",
        {},
        reply(choices=[]),
        reply(choices=[{}, {}]),
        reply(choices="so"),
        reply(choices=[None]),
        reply(choice={"index": 1}),
        reply(choice={"text": 5}),
        reply(choice={"finish_reason": None}),
        reply(choice={"finish_reason": "abort"}),
        reply(model="another"),
        reply(error={"message": "no"}),
    ],
)
def test_a_reply_that_is_no_answer_is_asked_again(spoilt: Any) -> None:
    with pytest.raises(BadAnswerError):
        wire.read_completion(spoilt, FOUND, ())


def test_a_withheld_text_is_not_asked_again() -> None:
    with pytest.raises(GaveUpError, match="filter"):
        wire.read_completion(reply(choice={"finish_reason": "content_filter"}), FOUND, ())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "−1", True, 0.5])
def test_a_log_probability_is_a_finite_number_not_above_zero(value: Any) -> None:
    with pytest.raises(BadAnswerError):
        wire.number(value)
    assert wire.number(1e-6) == 0.0  # rounding
    with pytest.raises(BadAnswerError):
        wire.read_echo(reply(choice={"logprobs": {"token_logprobs": [None, value, -1.0]}}), FOUND, (1, 2, 3), 1)


def test_an_echo_of_another_length_is_no_answer() -> None:
    for count in (0, 1, 5):
        with pytest.raises(BadAnswerError):
            wire.read_echo(reply(choice={"logprobs": {"token_logprobs": [None, *[-1.0] * count]}}), FOUND, (1,) * 3, 1)
    drawn = reply(choice={"logprobs": {"token_logprobs": [None, -1.0, -2.0, -9.0]}})
    assert wire.read_echo(drawn, FOUND, (1, 2, 3), 1) == -3.0  # the fourth was drawn after it


def test_a_drawn_token_outside_the_top_does_not_count_as_one_of_them() -> None:
    told = {"drawn": -8.0, "a": -1.0, "b": -2.0}
    top = wire.read_top(reply(choice={"logprobs": {"top_logprobs": [told]}}), FOUND)
    assert top == wire.Top(logprobs={"a": -1.0, "b": -2.0}, bound=-2.0)


def test_a_drawn_token_where_others_share_a_text_bounds_nothing() -> None:
    told = {"drawn": -8.0, "a": -1.0}
    logprobs = {"top_logprobs": [told], "token_logprobs": [-8.0]}
    assert wire.read_top(reply(choice={"logprobs": logprobs}), FOUND) == wire.Top(logprobs=told, bound=-1.0)
    logprobs["token_logprobs"] = [-1.0]
    assert wire.read_top(reply(choice={"logprobs": logprobs}), FOUND) == wire.Top(logprobs=told, bound=-8.0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "index",
                        "text",
                        "model",
                        "logprobs",
                        "top_logprobs",
                        "token_logprobs",
                        "prompt_logprobs",
                        "completion_probabilities",
                        "content",
                        "message",
                        "usage",
                        "finish_reason",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_reply_whatever_is_more_than_a_bad_answer(value: Any) -> None:
    for read in (
        lambda: wire.read_completion(value, FOUND, ("x",)),
        lambda: wire.read_named(value, FOUND, (1, 2)),
        lambda: wire.read_biased(value, (1, 2)),
        lambda: wire.read_shares(value, (1, 2)),
        lambda: wire.read_top(value, FOUND),
        lambda: wire.read_prompt_logprobs(value, FOUND, (1, 2), 1),
        lambda: wire.read_echo(value, FOUND, (1, 2), 1),
        lambda: wire.read_tokens(value),
        lambda: wire.prompt_tokens(value),
    ):
        try:
            read()
        except (BadAnswerError, GaveUpError):
            continue


# -- the estimating tokenizer --------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_estimate_gives_a_text_back_and_tells_texts_apart(one: str, other: str) -> None:
    tokenizer = EstimatingTokenizer()
    ids = tokenizer.encode(one)
    assert tokenizer.decode(ids) == one.encode("utf-8", "replace").decode()
    assert all(0 < token < 2**32 for token in ids)  # the answer cache keeps four bytes of each
    assert (ids == tokenizer.encode(other)) == (one.encode("utf-8", "replace") == other.encode("utf-8", "replace"))


def test_the_estimate_is_of_the_length_that_a_tokenizer_would_give() -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it sleeps for 12 hours in a comfortable den."
    assert 20 <= len(EstimatingTokenizer().encode(text)) <= 40
    prompts = Prompts(EstimatingTokenizer(), max_tokens=512, instruction_tokens=64)
    assert [choice.text for choice in prompts.rating_choices] == ["1", "2", "3", "4", "5"]


# -- identity ------------------------------------------------------------------------------------------------------------


def test_a_served_folder_is_that_folder_and_the_address_is_no_part_of_a_model(byte_model: ModelRef) -> None:
    from dataclasses import replace

    here = replace(FOUND, folder=byte_model.path, is_here=True)
    assert identify(here, None).content_hash == byte_model.content_hash
    hosted = replace(FOUND, folder=byte_model.path)  # another machine's folder of the same name
    assert identify(hosted, None).content_hash != byte_model.content_hash
    assert identify(hosted, None) == identify(replace(hosted, url="https://elsewhere"), None)
    changed = [
        identify(replace(hosted, answers_as="m-2026-01-01"), None),
        identify(replace(hosted, model="n"), None),
        identify(replace(hosted, details="n_params 5"), None),
        identify(hosted, "estimate"),
        identify(hosted, byte_model.path),
    ]
    hashes = {ref.content_hash for ref in (identify(hosted, None), *changed)}
    assert len(hashes) == 6


# -- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs either command .* or url"),
        ({"url": "http://a", "command": "x {model} {port}"}, "needs either command"),
        ({"url": "localhost:8000"}, "no web address"),
        ({"url": "http://user:secret@host"}, "holds a user"),
        ({"url": "http://host/v1?key=secret"}, "a query"),
        ({"url": "http://host", "api_key_env": "sk-secret"}, "not the name of an environment variable"),
        ({"command": "vllm serve {model}"}, r"lacks \{port\}"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_showing_a_secret(settings: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_section(ServerSettings, settings, "it")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"engine": "server"}, "needs runtime.server"),
        (
            {"engine": "server", "workers": 2, "server": {"command": "vllm serve {model} --port {port}"}},
            "workers=2 would start as many servers",
        ),
    ],
)
def test_a_recipe_whose_runtime_does_not_fit_is_refused(runtime: Any, message: str) -> None:
    inputs = {"inputs": [{"path": "any"}]}
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({"model": {"base": "x"}, "seed": inputs, "corpus": inputs, "runtime": runtime})


def test_an_address_is_given_with_or_without_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"):
        assert Client(url, ServerSettings(url=url)).url == "http://host:1"
    assert Client("http://h/api/v1", ServerSettings(url="http://h/api/v1")).url == "http://h/api"
    monkeypatch.setenv("SOME_KEY", "abc123")
    client = Client("http://h", ServerSettings(url="http://h", api_key_env="SOME_KEY"))
    assert "abc123" not in repr(client)
    assert read_key("SOME_KEY") == "abc123"
