"""Progress: what a bar says follows from what it has heard; time is given, never measured."""

from __future__ import annotations

import pytest

from humpback import progress
from humpback.engines.base import EngineTotals
from humpback.progress import Bar, Console, format_seconds, tell_totals
from humpback.training.plan import follow_steps
from humpback.training.spec import TrainStep


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def _batch(answers: int, **more: int) -> EngineTotals:
    return EngineTotals(requests=answers, **more)


def test_bar_tells_answers_rows_rates_tokens_cache_and_errors(clock: Clock) -> None:
    bar = Bar("augment", 100, "answers")
    bar.rows_total = 50
    clock.now += 10
    bar.hear(_batch(20, cache_hits=20), work=20)
    bar.hear(_batch(30, tokens_in=12_000, tokens_out=500, errors=2), work=30)
    bar.finish_rows(25, 50)
    assert bar.describe() == (
        "50/100 answers · 25/50 rows · 3.0 answers/s · 1250 tokens/s · tokens 12k in, 500 out · 20 from cache · "
        "2 errors · ETA 0:17"
    )


def test_answers_of_the_cache_and_of_earlier_sittings_are_no_measure_of_speed(clock: Clock) -> None:
    bar = Bar("score", 100, "answers")
    bar.skip(40)
    clock.now += 10
    bar.hear(_batch(30, cache_hits=30), work=30)
    assert "ETA" not in bar.describe()
    bar.hear(_batch(10, tokens_in=1), work=10)
    assert "80/100 answers · 1.0 answers/s" in bar.describe()
    assert "ETA 0:20" in bar.describe()


def test_what_a_training_takes_to_load_is_no_part_of_its_speed(clock: Clock) -> None:
    bar = Bar("train", 101, "steps")
    on_step = follow_steps(bar, Console(quiet=True))
    clock.now += 90  # torch and the model are loaded
    on_step(TrainStep(step=51, steps=101, loss=2.0, tokens=100, seconds=2.0))  # goes on from step 50
    assert bar.describe() == "51/101 steps · 0.5 steps/s · 50 tokens/s · ETA 1:40 · loss 2.000"
    clock.now += 8
    on_step(TrainStep(step=52, steps=101, loss=1.5, tokens=100, seconds=8.0))
    assert "0.2 steps/s" in bar.describe()


def test_time_left_counts_long_rows_for_more_because_they_come_first(clock: Clock) -> None:
    """Of 10 rows the longest two hold half of the tokens: when they are done, as much time is left as has gone."""
    bar = Bar("score", 10, "answers")
    clock.now += 60
    bar.hear(_batch(2, tokens_in=500), work=5)
    assert "2/10 answers" in bar.describe()
    assert "ETA 1:00" in bar.describe()


def test_rows_that_were_not_asked_about_are_done_when_their_shard_is(clock: Clock) -> None:
    bar = Bar("score", 40, "answers")
    bar.rows_total = 10
    clock.now += 1
    bar.hear(_batch(18, tokens_in=1), work=18)  # two pairs of the shard's five were too long to be rated
    bar.finish_rows(5, 20)
    assert bar.done == 20
    bar.finish_rows(5, 20)
    assert bar.done == 40
    assert "40/40 answers · 10/10 rows" in bar.describe()


def test_totals_are_told_in_a_line() -> None:
    totals = EngineTotals(requests=1200, cache_hits=200, tokens_in=90_000, tokens_out=10_000, errors=3, retries=7)
    assert tell_totals(totals, 50) == (
        "1,200 answers, 200 from cache, tokens 90,000 in, 10,000 out, 2,000 tokens/s, 3 errors, 7 retries"
    )
    assert tell_totals(EngineTotals(requests=5, cache_hits=5), 1) == "5 answers, 5 from cache"
    assert tell_totals(EngineTotals(requests=5, errors=1, retries=1), 1) == "5 answers, 1 error, 1 retry"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (1000, "1.0k"), (12_345, "12k"), (9_990_000, "10.0M"), (45_600_000, "46M")]
)
def test_large_numbers_are_short(number: int, text: str) -> None:
    assert progress._short(number) == text
