"""The `server` engine against a server that fails: every row ends answered or with a reason, and what is vain ends at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FAULTS, NAME, FaultyServer, FileTokenizer, HashModel

from humpback.engines.answers import AnswerCache
from humpback.engines.base import ModelRef, Sampling
from humpback.engines.cache import CachedEngine
from humpback.engines.server.engine import ServerEngine
from humpback.engines.server.probe import probe_url
from humpback.errors import InputError, StageError
from humpback.prompts import Choice, Continuation, Prompt
from humpback.recipe import ServerSettings

FREE = Sampling(temperature=1.0, top_p=1.0, max_tokens=8)
KEY = "sk-very-secret-0123456789"
QUICK_FAULTS = [fault for fault in FAULTS if fault not in ("stall", "429 with seconds")]
"""Those that do not only take time."""
Start = Callable[..., FaultyServer]
Open = Callable[..., ServerEngine]


@pytest.fixture(scope="module")
def tokenizer(byte_model: ModelRef) -> FileTokenizer:
    return FileTokenizer(byte_model.path)


@pytest.fixture
def start(tokenizer: FileTokenizer) -> Iterator[Start]:
    """Starts servers that end with the test."""
    servers: list[FaultyServer] = []

    def start(**settings: Any) -> FaultyServer:
        servers.append(FaultyServer(HashModel(), tokenizer, **settings).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def open_engine(byte_model: ModelRef) -> Iterator[Open]:
    """Opens engines that close with the test."""
    engines: list[ServerEngine] = []

    def open_engine(server: FaultyServer | str, **settings: Any) -> ServerEngine:
        url = server if isinstance(server, str) else server.url
        engines.append(ServerEngine(byte_model, ServerSettings(url=url, **settings)))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.close()


def ask(engine: ServerEngine, text: str, seed: int = 0) -> Prompt:
    chat = engine.tokenizer.chat(text)
    return Prompt(user=text, prefill="", text=chat, token_ids=tuple(engine.tokenizer.encode(chat)), seed=seed)


def ask_many(engine: ServerEngine, count: int) -> list[Prompt]:
    return [ask(engine, f"Row {number}", seed=number) for number in range(count)]


# -- faults --------------------------------------------------------------------------------------------------------------


def test_a_failing_server_loses_no_row_and_doubles_none(start: Start, open_engine: Open) -> None:
    assert_all_end_well(start, open_engine, rows=200, faults=QUICK_FAULTS, cursed_rows=0)


@pytest.mark.slow
def test_of_2000_requests_to_a_failing_server_each_ends_answered_or_with_a_reason(
    start: Start, open_engine: Open
) -> None:
    assert_all_end_well(start, open_engine, rows=2000, faults=FAULTS, cursed_rows=4)


def assert_all_end_well(start: Start, open_engine: Open, *, rows: int, faults: Any, cursed_rows: int) -> None:
    good, cursed = start(), set(range(7, rows, rows // 4)[:cursed_rows])
    reference = open_engine(good)
    prompts = ask_many(reference, rows)
    too_long = {11, rows - 2}
    for row in too_long:
        prompts[row] = ask(reference, "word " * 200, seed=row)
    bad_ids = {prompts[row].token_ids for row in cursed}
    faulty = start(faults=faults, rate=0.2, seed=5, stall_s=30 * 0.5, cursed=lambda ids: tuple(ids) in bad_ids)
    engine = open_engine(faulty, timeout_s=10, deadline_s=60, patience_s=60)
    assert engine.capabilities == {"generate", "choice_logprobs", "loglikelihood"}
    assert reference.capabilities == engine.capabilities
    good.answered.clear()
    faulty.answered.clear()
    answers = engine.generate(prompts, FREE)

    assert len(answers) == rows
    failed = {row for row, answer in enumerate(answers) if answer.error}
    assert failed == cursed | too_long
    assert all(answers[row].finish == "error" for row in failed)
    assert all(re.search(r"^HTTP 500: out of luck \(\d+ tries in \d+ s\)$", answers[row].error or "") for row in cursed)
    assert all("exceed" in (answers[row].error or "") for row in too_long)
    expected = reference.generate(prompts, FREE)
    assert [a for row, a in enumerate(answers) if row not in failed] == [
        a for row, a in enumerate(expected) if row not in cursed | too_long
    ]
    # none is lost, none is answered twice, nothing else is asked, and each fault was met
    assert set(good.answered.values()) == {1}
    assert len(good.answered) == rows - len(too_long)  # the good one answers the cursed rows too
    assert set(faulty.answered.values()) == {1}
    assert faulty.answered.keys() <= good.answered.keys()
    assert len(faulty.answered) == rows - len(failed)
    assert faulty.met.keys() == set(faults)
    assert engine.totals.requests == rows
    assert engine.totals.retries >= len(faults)  # each fault was met, and its row asked again
    assert engine.totals.tokens_out == sum(answer.tokens for answer in answers)
    assert engine.totals.tokens_in == sum(len(p.token_ids) for row, p in enumerate(prompts) if row not in failed)


@pytest.mark.parametrize("call", ["choice_logprobs", "loglikelihood"])
def test_log_probabilities_from_a_failing_server_are_those_of_a_good_one(
    start: Start, open_engine: Open, call: str
) -> None:
    good, faulty = open_engine(start()), open_engine(start(faults=QUICK_FAULTS, rate=0.2, seed=2))
    prompts, menu = ask_many(good, 30), [Choice(text=str(n), token_id=60 + n) for n in range(5)]
    target = [Continuation(text="yes", token_ids=(70, 71, 72))] * len(prompts)
    answers = [
        engine.choice_logprobs(prompts, menu) if call == "choice_logprobs" else engine.loglikelihood(prompts, target)
        for engine in (good, faulty)
    ]
    assert answers[0] == answers[1]
    assert not any(answer.error for answer in answers[0])


def test_a_row_that_always_fails_ends_at_its_deadline_with_the_last_reason(start: Start, open_engine: Open) -> None:
    engine = open_engine(start(cursed=lambda ids: len(ids) > 60), deadline_s=0.5)
    good, bad = engine.generate([ask(engine, "a"), ask(engine, "b" * 60)], FREE)
    assert good.error is None
    assert bad.error is not None
    assert bad.error.startswith("HTTP 500: out of luck (")


def test_a_request_that_is_refused_is_not_sent_again(start: Start, open_engine: Open) -> None:
    server = start(manner="legacy")  # tells no context, so that too long a prompt is found out there
    engine = open_engine(server)
    assert engine.capabilities
    before = server.requests
    (answer,) = engine.generate([ask(engine, "word " * 200)], FREE)
    assert answer.error is not None
    assert "exceed the context of 512" in answer.error
    assert server.requests == before + 1


# -- what is vain ends at once -------------------------------------------------------------------------------------------


def test_a_wrong_key_ends_with_one_message_that_does_not_show_it(
    start: Start, open_engine: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TESTED_KEY", KEY)
    server = start(key="another")
    engine = open_engine(server, api_key_env="TESTED_KEY")
    with pytest.raises(InputError, match=r"the key in TESTED_KEY is refused \(HTTP 401: .*\*\*\*") as caught:
        engine.generate(ask_many(engine, 2000), FREE)
    assert server.requests == 1
    assert KEY not in f"{caught.value!r} {engine.settings!r} {caplog.text}"


def test_a_key_that_expires_in_the_middle_ends_the_call_after_a_handful(
    start: Start, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTED_KEY", KEY)
    server = start(key=KEY)
    engine = open_engine(server, api_key_env="TESTED_KEY", concurrency=8)
    assert "generate" in engine.capabilities
    before, server.key = server.requests, "changed"
    with pytest.raises(InputError, match="TESTED_KEY is refused"):
        engine.generate(ask_many(engine, 2000), FREE)
    assert server.requests - before <= 8


def test_a_missing_or_unsuitable_key_is_told_before_anything_is_sent(
    start: Start, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.delenv("TESTED_KEY", raising=False)
    with pytest.raises(InputError, match="TESTED_KEY is not set"):
        _ = open_engine(server, api_key_env="TESTED_KEY").capabilities
    monkeypatch.setenv("TESTED_KEY", "ключ\n1")
    with pytest.raises(InputError, match="characters that no header may have"):
        _ = open_engine(server, api_key_env="TESTED_KEY").capabilities
    assert server.requests == 0


def test_a_wrong_model_ends_with_one_message_that_lists_the_names(start: Start, open_engine: Open) -> None:
    server = start()
    engine = open_engine(server, model="wrong")
    with pytest.raises(InputError, match=rf"does not serve runtime.server.model=wrong; it serves {NAME}"):
        engine.generate(ask_many(engine, 2000), FREE)
    assert server.requests == 1


def test_nothing_at_the_address_is_wrong_input(open_engine: Open) -> None:
    with pytest.raises(InputError, match=r"gives no answer .* start the server, or correct"):
        _ = open_engine("http://127.0.0.1:9").capabilities


def test_a_server_that_is_gone_for_long_stops_the_run_resumably(start: Start, open_engine: Open) -> None:
    server = start(delay_s=0.02)
    engine = open_engine(server, patience_s=0.5, deadline_s=0.5)
    assert engine.capabilities
    server.stop()
    with pytest.raises(StageError, match="resume with the same command"):
        engine.generate(ask_many(engine, 500), FREE)


def test_a_server_that_comes_back_is_asked_what_is_open(start: Start, open_engine: Open) -> None:
    import threading

    server = start(delay_s=0.01)
    engine = open_engine(server, patience_s=60, deadline_s=1.5, concurrency=8)  # the time it was away is not the rows'
    assert engine.capabilities
    prompts = ask_many(engine, 300)
    server.answered.clear()
    threading.Timer(0.2, server.stop).start()
    threading.Timer(2.0, server.start_again).start()
    answers = engine.generate(prompts, FREE)
    assert [answer.error for answer in answers] == [None] * 300
    assert len(server.answered) == 300
    assert set(server.answered.values()) == {1}  # a reply that was on its way when it stopped is not asked for again


def test_a_redirect_is_not_followed_with_the_key(
    start: Start, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTED_KEY", KEY)
    target = start(key=KEY)
    server = start()
    server._answer = lambda *_: (307, {"error": {"message": f"moved to {target.url}"}})  # type: ignore[method-assign]
    with pytest.raises(InputError, match="HTTP 307"):
        _ = open_engine(server, api_key_env="TESTED_KEY", model=NAME).capabilities
    assert target.requests == 0


def test_a_reply_without_end_is_cut_off(start: Start, open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    engine = open_engine(server)
    assert engine.capabilities
    monkeypatch.setattr("humpback.engines.server.client.LARGEST_REPLY", 100)
    (answer,) = engine.generate([ask(engine, "a")], FREE)
    assert answer.error == "the reply is larger than 0 MiB"


# -- capabilities --------------------------------------------------------------------------------------------------------


def test_a_chat_endpoint_is_sent_messages_and_claims_to_generate_only(start: Start, byte_model: ModelRef) -> None:
    server = start(manner="chat")
    engine = ServerEngine(byte_model, ServerSettings(url=server.url, tokenizer="estimate"))
    assert engine.capabilities == {"generate"}
    server.bodies.clear()
    prompts = ask_many(engine, 3)
    assert all(not answer.error and answer.tokens > 0 for answer in engine.generate(prompts, FREE))
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == ["Row 0", "Row 1", "Row 2"]
    assert not any(body.keys() & {"prompt", "top_k", "logprobs"} for body in server.bodies)
    assert all(body["stream"] is False for body in server.bodies)
    (prefilled,) = engine.generate([Prompt(user="u", prefill="Score: ", text="u", token_ids=(1,))], FREE)
    assert prefilled.error == "a chat endpoint cannot be given the start of an answer"
    with pytest.raises(InputError, match="chat endpoint, which cannot be given the start of an answer"):
        engine.choice_logprobs(prompts, [Choice(text="1", token_id=1)])
    engine.close()


def test_answers_of_a_chat_endpoint_whose_tokenizer_is_estimated_are_kept(
    start: Start, byte_model: ModelRef, tmp_path: Path
) -> None:
    server = start(manner="chat")
    inner = ServerEngine(byte_model, ServerSettings(url=server.url, tokenizer="estimate"))
    engine = CachedEngine(inner, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=4096)
    prompts = [ask(inner, text, seed=n) for n, text in enumerate(("Where do whales sing?", "Größe 12345: 日本語"))]
    first = engine.generate(prompts, FREE)
    assert engine.generate(prompts, FREE) == first
    assert engine.totals.cache_hits == 2
    engine.close()


def test_top_log_probabilities_rate_only_where_all_choices_that_matter_are_told(
    start: Start, open_engine: Open
) -> None:
    engine = open_engine(start(manner="legacy", echoes=False))
    assert engine.capabilities == {"generate", "choice_logprobs"}
    assert (engine.findings.choices, engine.findings.likelihood) == ("top", None)
    count = engine.findings.top_logprobs
    assert 2 < count <= 5  # of tokens with the same text one is told
    prompts, model = ask_many(engine, 8), HashModel()
    for prompt in prompts:
        row = model.next_logprobs(prompt.token_ids)[-1]
        best = [int(token) for token in row.argsort()[::-1]]
        texts = {token: engine.tokenizer.decode([token]) for token in best}
        told = [token for token in best[:count] if texts[token].isprintable() and "\ufffd" not in texts[token]]
        if len(told) < 2:
            continue
        (seen,) = engine.choice_logprobs([prompt], [Choice(text="", token_id=token) for token in told])
        assert seen.logprobs == pytest.approx([float(row[token]) for token in told])
        hidden = next(token for token in best[6:] if texts[token].isprintable())
        (partly,) = engine.choice_logprobs([prompt], [Choice(text="", token_id=token) for token in (told[0], hidden)])
        assert partly.error is not None
        assert f"not among the {count} most probable tokens" in partly.error
        assert partly.logprobs == ()


def test_a_choice_that_is_not_among_the_most_probable_is_told_by_a_likelihood_of_its_own(
    start: Start, open_engine: Open
) -> None:
    server = start(manner="legacy")
    engine = open_engine(server)
    assert engine.findings.choices == "each"
    (prompt,) = ask_many(engine, 1)
    row = HashModel().next_logprobs(prompt.token_ids)[-1]
    best = [int(token) for token in row.argsort()[::-1] if engine.tokenizer.decode([int(token)]).isprintable()]
    told, *hidden = best[0], best[50], best[100]
    before = server.requests
    (answer,) = engine.choice_logprobs([prompt], [Choice(text="", token_id=token) for token in (told, *hidden)])
    assert answer.logprobs == pytest.approx([float(row[token]) for token in (told, *hidden)])
    assert server.requests - before == 1 + len(hidden)


def test_the_probe_sees_through_a_server_that_fails_now_and_then(start: Start, open_engine: Open) -> None:
    calm = open_engine(start()).findings
    for seed in range(3):
        shaky = open_engine(start(faults=QUICK_FAULTS, rate=0.15, seed=seed)).findings
        assert shaky.capabilities(knows_tokenizer=True) == calm.capabilities(knows_tokenizer=True)
        assert (shaky.choices, shaky.answers_as) == (calm.choices, NAME)


def test_a_damaged_list_of_models_is_asked_for_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    good = server._answer
    spoilt = iter([{}, {"data": []}, {"data": None}])

    def answer(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (200, next(spoilt, good(method, path, body)[1])) if path == "/v1/models" else good(method, path, body)

    monkeypatch.setattr(server, "_answer", answer)
    assert probe_url(ServerSettings(url=server.url)).model == NAME


def test_a_server_that_lists_no_model_is_told_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    monkeypatch.setattr(server, "_answer", lambda *asked: (200, {"data": []}))
    with pytest.raises(InputError, match="it lists none"):
        probe_url(ServerSettings(url=server.url))


def test_another_tokenizer_than_the_servers_is_refused(start: Start, byte_model: ModelRef, tmp_path: Path) -> None:
    server = start()
    server.tokenizer = FakeIds()  # type: ignore[assignment]
    engine = ServerEngine(byte_model, ServerSettings(url=server.url))
    with pytest.raises(InputError, match="has another tokenizer than"):
        _ = engine.capabilities


class FakeIds:
    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 200 for letter in text]

    def decode_plain(self, ids: list[int]) -> str:
        return "x" * len(ids)

    def decode(self, ids: list[int]) -> str:
        return "x" * len(ids)

    def chat(self, user: str) -> str:
        return user


# -- how it asks ---------------------------------------------------------------------------------------------------------


def test_no_more_is_in_flight_than_allowed_and_more_is_tried_while_it_pays(start: Start, open_engine: Open) -> None:
    server = start(delay_s=0.05)
    engine = open_engine(server, concurrency=6)
    engine.generate(ask_many(engine, 60), FREE)
    assert 4 < server.most_at_once <= 6


def test_every_setting_that_bears_on_the_draw_is_sent(start: Start, open_engine: Open) -> None:
    server = start()
    engine = open_engine(server)
    assert engine.capabilities
    server.bodies.clear()
    engine.generate([ask(engine, "a", seed=2**31 + 5)], Sampling(temperature=0.7, top_p=0.9, max_tokens=3, stop=("x",)))
    (body,) = server.bodies
    sent = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 3, "stop": ["x"], "seed": 5, "n": 1, "stream": False}
    assert body.items() >= (sent | {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}).items()  # vLLM has defaults
    assert body["prompt"] == list(ask(engine, "a").token_ids)


def test_answers_are_kept_as_they_come(start: Start, open_engine: Open, tmp_path: Path) -> None:
    server = start(delay_s=0.01)
    inner = open_engine(server, patience_s=0.3, deadline_s=0.3)
    engine = CachedEngine(inner, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=10**9, batch_rows=1000)
    prompts = ask_many(inner, 120)
    put = engine.cache.put

    def count_draws() -> int:
        return sum(group.entries for group in engine.cache.groups() if group.source.call == "generate")

    def stop_after_40(source: Any, items: Any) -> None:
        put(source, items)
        if count_draws() == 40:
            server.stop()

    engine.cache.put = stop_after_40  # type: ignore[method-assign]
    with pytest.raises(StageError):
        engine.generate(prompts, FREE)
    kept = count_draws()
    assert 40 <= kept < 120
    server.start_again()
    server.answered.clear()
    engine.cache.put = put  # type: ignore[method-assign]
    answers = engine.generate(prompts, FREE)
    assert not any(answer.error for answer in answers)
    assert engine.totals.cache_hits == kept
    assert sorted(server.answered.values()) == [1] * (120 - kept)
    engine.close()
