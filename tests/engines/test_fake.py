"""The scripted engine: deterministic, better than chance where a model would be, and failing where it is told to."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from contract import EngineContract
from hypothesis import given
from hypothesis import strategies as st

from humpback.engines import EngineSpec, find_model, open_engine, resolve_model
from humpback.engines.base import Sampling
from humpback.engines.fake import FakeEngine, FakeTokenizer, fake_model
from humpback.errors import InputError
from humpback.prompts import Prompts
from humpback.records import Example
from humpback.store.shards import write_records
from humpback.training.fake import train_fake
from humpback.training.spec import TrainSpec

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=64)
DOCUMENT = "Bread rises overnight in the kitchen. Yeast wants warmth and patience."


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(fake_model(None))


@pytest.fixture
def prompts(engine: FakeEngine) -> Prompts:
    return Prompts(engine.tokenizer, max_tokens=4096, instruction_tokens=128)


def _example(number: int, **changes: object) -> Example:
    row = Example(
        id=str(number),
        origin="seed",
        tag="",
        instruction="",
        response="",
        parent_id="",
        source_uri="",
        segment_id="",
        licence="",
        sampling=1.0,
        weight=1.0,
        input_ids=(1, 2, number),
        labels=(-100, -100, number),
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def _spec(folder: Path, *rows: Example, base: str = "fake") -> TrainSpec:
    write_records(folder / "mix.parquet", Example, rows)
    return TrainSpec(
        base_model=Path(base),
        data=(folder / "mix.parquet",),
        output=folder / "model",
        work=folder / "work",
        metrics=folder / "metrics.jsonl",
        steps=3,
        batch_size=8,
    )


# -- the contract of every engine ----------------------------------------------------------------------------------------


class TestContract(EngineContract):
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=64)
    creative = Sampling(temperature=1.0, top_p=1.0, max_tokens=256)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> FakeEngine:
        return FakeEngine(fake_model(None))

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls) -> None:
        """It has no model."""

    @pytest.fixture(scope="class")
    @classmethod
    def vocabulary(cls) -> int:
        return 258


# -- answers -------------------------------------------------------------------------------------------------------------


def test_instruction_is_made_of_words_of_the_document(engine: FakeEngine, prompts: Prompts) -> None:
    (answer,) = engine.generate([prompts.backward(DOCUMENT)], SAMPLING)
    assert answer.text.startswith("Explain how ")
    assert all(word in DOCUMENT.lower() for word in answer.text[12:].removesuffix(" belong together.").split(" and "))
    assert answer.tokens == len(answer.text) + 1
    assert engine.generate([prompts.backward("... 123 ...")], SAMPLING)[0].text == ""


def test_same_question_has_the_same_answer_in_every_engine(engine: FakeEngine, prompts: Prompts) -> None:
    asked = [prompts.backward(DOCUMENT, seed=seed) for seed in range(8)]
    answers = engine.generate(asked, SAMPLING)
    assert FakeEngine(fake_model(None)).generate(asked[::-1], SAMPLING) == answers[::-1]
    assert len({answer.text for answer in answers}) > 1  # the seed counts


def test_another_model_answers_otherwise(engine: FakeEngine, prompts: Prompts) -> None:
    other = FakeEngine(dataclasses.replace(engine.model, content_hash="tuned"))
    asked = [prompts.backward(f"{DOCUMENT} {n}") for n in range(8)]
    targets = [prompts.target("bread")] * 8
    assert engine.generate(asked, SAMPLING) != other.generate(asked, SAMPLING)
    assert engine.loglikelihood(asked, targets) != other.loglikelihood(asked, targets)


def test_shared_words_make_a_text_likelier(engine: FakeEngine, prompts: Prompts) -> None:
    asked = [prompts.backward(DOCUMENT), prompts.backward("Rivers run to the ocean.")]
    related, unrelated = engine.loglikelihood(asked, [prompts.target("How does bread rise overnight?")] * 2)
    assert related.logprob > unrelated.logprob
    assert related.tokens == unrelated.tokens == len("How does bread rise overnight?") + 1
    assert related.logprob < 0


def test_response_that_ends_in_a_full_stop_is_rated_higher(engine: FakeEngine, prompts: Prompts) -> None:
    asked = [prompts.rate("How?", DOCUMENT), prompts.rate("How?", DOCUMENT.rstrip("."))]
    whole, cut = engine.choice_logprobs(asked, prompts.rating_choices)
    expected = [sum(n * math.exp(p) for n, p in enumerate(a.logprobs, start=1)) / a.mass for a in (whole, cut)]
    assert expected[0] > 3.5 > 2.5 > expected[1]
    assert math.isclose(sum(map(math.exp, whole.logprobs)), whole.mass)


def test_prompt_with_fail_me_gets_an_error_and_its_neighbours_do_not(engine: FakeEngine, prompts: Prompts) -> None:
    asked = [prompts.backward(text) for text in (DOCUMENT, f"{DOCUMENT} FAIL-ME", DOCUMENT)]
    target = [prompts.target("bread")] * 3
    for answers in (
        engine.generate(asked, SAMPLING),
        engine.choice_logprobs(asked, prompts.rating_choices),
        engine.loglikelihood(asked, target),
    ):
        assert [answer.error for answer in answers] == [None, "scripted failure", None]
    failing = engine.loglikelihood(asked[:1], [prompts.target("FAIL-ME")])
    assert failing[0].error == "scripted failure"


def test_totals_count_what_was_computed(engine: FakeEngine, prompts: Prompts) -> None:
    asked = [prompts.backward(DOCUMENT), prompts.backward("FAIL-ME")]
    answers = engine.generate(asked, SAMPLING)
    assert engine.totals.requests == 2
    assert engine.totals.tokens_in == len(asked[0].token_ids)
    assert engine.totals.tokens_out == answers[0].tokens


# -- tokens --------------------------------------------------------------------------------------------------------------


@given(st.text())
def test_tokens_are_bytes_and_come_back_as_text(text: str) -> None:
    tokenizer = FakeTokenizer()
    plain = text.replace("<|end|>", "").replace("<|user|>", "")
    ids = tokenizer.encode(plain)
    assert tokenizer.decode(ids) == plain
    assert all(i < 256 for i in ids)


def test_chat_wraps_the_turn_in_special_tokens() -> None:
    tokenizer = FakeTokenizer()
    assert tokenizer.encode(tokenizer.chat("hi")) == [257, *b"hi", 256]
    assert tokenizer.end_of_turn == (256,)


# -- training ------------------------------------------------------------------------------------------------------------


def test_training_gives_a_model_that_depends_on_base_and_rows(tmp_path: Path) -> None:
    hashes = {}
    for name, rows in {
        "one": [_example(1), _example(2)],
        "again": [_example(1), _example(2)],
        "order": [_example(2), _example(1)],
        "tokens": [_example(1), _example(2, input_ids=(1, 9, 2))],
        "fewer": [_example(1)],
    }.items():
        train_fake(_spec(tmp_path / name, *rows))
        hashes[name] = find_model(tmp_path / name / "model").content_hash
    base = tmp_path / "one" / "model"
    train_fake(_spec(tmp_path / "further", _example(1), _example(2), base=str(base)))
    hashes["further"] = find_model(tmp_path / "further" / "model").content_hash
    assert hashes.pop("again") == hashes["one"]
    assert len({*hashes.values(), fake_model(None).content_hash}) == len(hashes) + 1


def test_training_counts_rows_and_label_tokens(tmp_path: Path) -> None:
    result = train_fake(_spec(tmp_path, _example(1), _example(2), _example(3)))
    assert (result.steps, result.examples, result.tokens, result.label_tokens) == (3, 3, 9, 3)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 3, "steps": 3}
    ]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["fake-model.json"]


def test_training_replaces_what_a_kill_left(tmp_path: Path) -> None:
    spec = _spec(tmp_path, _example(1))
    for name in ("model", "model.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.json").write_text("{")
    train_fake(spec)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["fake-model.json"]
    assert not (tmp_path / "model.tmp").exists()


def test_training_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no training rows in .*mix\.parquet"):
        train_fake(_spec(tmp_path))
    spec = _spec(tmp_path, _example(1))
    (tmp_path / "mix.parquet").unlink()
    with pytest.raises(InputError, match=r"mix\.parquet: there is no such file"):
        train_fake(spec)


def test_folder_that_is_no_scripted_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a scripted model"):
        fake_model(tmp_path)


def test_fake_is_opened_by_name(tmp_path: Path) -> None:
    model = resolve_model("fake", tmp_path)
    assert model == fake_model(None)
    spec = EngineSpec(
        model=model, engine="fake", device="auto", batch_tokens=64, threads=None, cache=tmp_path / "answers.sqlite"
    )
    engine = open_engine(spec)
    assert isinstance(engine.inner, FakeEngine)
    engine.close()
