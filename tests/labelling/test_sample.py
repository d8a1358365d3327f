"""The sample: strata, an order that any labeller can stop in, and no hint of the verdict."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.errors import InputError
from humpback.labelling.sample import Population, draw, load_population

if TYPE_CHECKING:
    from tests.conftest import Lab


def _population(random_seed: int = 0, **strata: int) -> Population:
    return Population(
        corrected=False,
        run=Path(),
        random_seed=random_seed,
        iteration=None,
        signal=None,
        decision=None,
        strata={name: tuple(f"{name}{number:03}" for number in range(rows)) for name, rows in strata.items()},
        curated=frozenset(),
        design="d",
    )


def test_every_candidate_is_drawn_once() -> None:
    population = _population(a=37, b=5, c=1)
    drawn = [place.pair_id for place in draw(population)]
    assert sorted(drawn) == sorted(itertools.chain(*population.strata.values()))
    assert len(set(drawn)) == 43


def test_strata_get_the_same_number_as_long_as_they_last() -> None:
    drawn = [place.stratum for place in draw(_population(a=100, b=4, c=100))]
    assert Counter(drawn[:12]) == {"a": 4, "b": 4, "c": 4}
    assert Counter(drawn[:20]) == {"a": 8, "b": 4, "c": 8}


def test_order_depends_on_the_seed_alone() -> None:
    first, again, other = (list(draw(_population(seed, a=30, b=30))) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_place_in_a_round_does_not_tell_the_stratum() -> None:
    drawn = [place.stratum for place in draw(_population(a=60, b=60))]
    assert 15 <= sum(stratum == "a" for stratum in drawn[::2]) <= 45


@pytest.mark.parametrize("taken", [4, 8, 16])
def test_every_beginning_is_spread_over_the_sources(taken: int) -> None:
    # ids lie in the order of their sources: four sources of 16
    drawn = [int(place.pair_id[1:]) // 16 for place in itertools.islice(draw(_population(a=64)), taken)]
    assert Counter(drawn) == dict.fromkeys(range(4), taken // 4)


def test_each_candidate_has_the_same_chance() -> None:
    hits: Counter[str] = Counter()
    for seed in range(600):
        hits.update(place.pair_id for place in itertools.islice(draw(_population(seed, a=12)), 3))
    assert len(hits) == 12
    assert all(100 < number < 200 for number in hits.values())  # 150 expected, deviation about 11


def test_strata_of_a_run_are_its_verdicts_by_the_band_of_the_deciding_score(lab: Lab, finished: Path) -> None:
    population = load_population(finished)
    curated = {row["id"] for row in lab.rows(finished, "iteration-1/curate", "curated")}
    scored = {row["id"]: dict(row["scores"]) for row in lab.rows(finished, "iteration-1/score", "scored")}
    strata = population.stratum_of()
    assert strata.keys() == scored.keys()
    assert population.curated == curated
    assert all(strata[i].startswith("curated" if i in curated else "rejected") for i in strata)
    assert population.signal is not None
    bands = {
        band: [scored[i][population.signal] for i in strata if strata[i].endswith(band)]
        for band in ("low", "middle", "high")
    }
    spans = [(min(values), max(values)) for values in bands.values() if values]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_run_that_has_scored_nothing_is_sampled_from_its_candidates(lab: Lab, copy_of_finished: Path) -> None:
    for path in copy_of_finished.glob("iteration-1/score/*"):
        path.unlink()
    population = load_population(copy_of_finished)
    assert population.iteration is None
    assert list(population.strata) == ["all"]
    pair_id = population.strata["all"][0]
    row = next(row for row in lab.rows(copy_of_finished, "augment", "candidates") if row["id"] == pair_id)
    assert population.read({pair_id})[pair_id].response == row["response"]


def test_folder_that_is_no_run_and_a_run_without_candidates_are_refused(copy_of_finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run folder.*recipe\.yaml"):
        load_population(tmp_path)
    for path in [*copy_of_finished.glob("iteration-1/score/*"), *copy_of_finished.glob("augment/*")]:
        path.unlink()
    with pytest.raises(InputError, match=r"holds no candidates yet.*humpback status"):
        load_population(copy_of_finished)
