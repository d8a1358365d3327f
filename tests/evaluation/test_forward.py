"""A pair's forward reading: what was asked is read, what was not is absent, and what has no value says why."""

from __future__ import annotations

from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.forward import read_forward
from humpback.evaluation.probe import States
from humpback.evaluation.raters import InstructionResponse, Missing, Raters
from humpback.evaluation.signals import count_calls, measure_pairs
from humpback.prompts import Prompts

PAIR = InstructionResponse("Name a whale.", "The humpback.")
LONG = InstructionResponse("Name whales.", "whale " * 200)
BAD = InstructionResponse("FAIL-ME", "So.")


def _raters(engine: FakeEngine, max_tokens: int = 4000) -> Raters:
    prompts = Prompts(engine.tokenizer, max_tokens=max_tokens, instruction_tokens=64)
    return Raters(model=engine, backward=engine, prompts=prompts, min_label_mass=0.5)


def test_what_is_not_asked_is_absent_and_costs_nothing() -> None:
    engine = FakeEngine(fake_model(None))
    (likely,) = read_forward([PAIR], _raters(engine), likelihoods=True)
    assert likely.likelihoods is not None
    assert likely.states is None
    assert engine.totals.requests == 2
    (states,) = read_forward([PAIR], _raters(engine), likelihoods=False, layers=(1, 2))
    assert states.likelihoods is None
    assert isinstance(states.states, States)
    assert engine.totals.requests == 4


def test_readings_come_in_the_pairs_order_and_each_part_is_missing_for_its_own_reason() -> None:
    raters = _raters(FakeEngine(fake_model(None)), max_tokens=400)
    pairs = [PAIR, LONG, BAD]
    good, long, bad = read_forward(pairs, raters, likelihoods=True, layers=(1,))
    assert isinstance(good.states, States)
    assert good.likelihoods == _likelihoods(PAIR, raters)
    assert isinstance(long.states, Missing)
    assert long.states.reason.startswith("too_long: the pair and the question exceed 400 tokens")
    assert not isinstance(long.likelihoods, Missing)
    for part in (bad.states, bad.likelihoods):
        assert isinstance(part, Missing)
        assert (part.failed, part.reason) == (True, "engine_error: scripted failure")


def _likelihoods(pair: InstructionResponse, raters: Raters) -> object:
    (reading,) = read_forward([pair], raters, likelihoods=True)
    return reading.likelihoods


def test_difficulty_and_lift_ask_nothing_twice() -> None:
    engine = FakeEngine(fake_model(None))
    rows, states = measure_pairs([PAIR], ["ifd", "forward_lift"], _raters(engine), layers=(2,))
    assert engine.totals.requests == 4
    assert set(rows[0].scores) == {"ifd", "forward_lift", "response_logprob"}
    assert [isinstance(state, States) for state in states] == [True]


def test_signals_without_a_model_ask_none() -> None:
    engine = FakeEngine(fake_model(None))
    rows, states = measure_pairs([PAIR, PAIR], ["text"], _raters(engine), layers=())
    assert (engine.totals.requests, states) == (0, [None, None])
    assert all(row.scores["text"] > 0 for row in rows)


def test_a_probe_that_was_not_fitted_asks_nothing() -> None:
    engine = FakeEngine(fake_model(None))
    names = ["probe", "ifd", "forward_lift"]
    rows, _ = measure_pairs([PAIR], names, _raters(engine), layers=())
    assert rows[0].missing["probe"].reason.startswith("not_fitted")
    assert rows[0].scores["ifd"] > 0
    assert engine.totals.requests == count_calls(["forward_lift"], samples=1) == 2


def test_what_is_announced_is_what_is_asked() -> None:
    engine, names = FakeEngine(fake_model(None)), ["rating", "backward_lift", "forward_lift", "ifd"]
    measure_pairs([PAIR, PAIR], names, _raters(engine), layers=(1,))
    assert engine.totals.requests == 2 * count_calls([*names, "probe"], samples=1)
