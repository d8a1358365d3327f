"""The recipe: one YAML file that says what a run is. Every default is written into the run folder.

All sections but `runtime` bear identity: changing one changes what the run is. `runtime` says how to compute, not what.
"""

from __future__ import annotations

import difflib
import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from humpback.errors import InputError, RecipeError
from humpback.prompts import RUBRICS, SEED_TAG, WEB_TAG

__all__ = [
    "MIN_PAIRS",
    "PRESETS",
    "AugmentSettings",
    "CorpusInput",
    "CorpusRecipe",
    "CorpusSettings",
    "Corruption",
    "CurateSettings",
    "EvaluateSettings",
    "EvaluationSet",
    "Filter",
    "GateSettings",
    "MixSettings",
    "ModelSettings",
    "NumberFormat",
    "PromptSettings",
    "Recipe",
    "Reporter",
    "RewriteSettings",
    "RuntimeSettings",
    "ScoreSettings",
    "SeedInput",
    "SeedSettings",
    "ServerSettings",
    "Signal",
    "TrainSettings",
    "VLLMSettings",
    "apply_override",
    "check_section",
    "dump_recipe",
    "load_corpus",
    "load_recipe",
    "read_yaml",
]

Signal = Literal["rating", "sampled_rating", "backward_lift", "forward_lift", "ifd", "probe", "text"]
NumberFormat = Literal["auto", "float32", "bfloat16", "float16"]
Corruption = Literal[
    "mismatch_random",
    "mismatch_hard",
    "cut_end",
    "cut_start",
    "cut_sentences",
    "navigation",
    "advertising",
    "voice",
    "echo",
    "shuffled",
    "language",
    "facts",
]
"""How the audit spoils held-out pairs: the kinds of `evaluation/corruptions.py`."""
Reporter = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Filter = Literal[
    "header_empty",
    "header_upper",
    "header_navigation",
    "mostly_not_text",
    "repeated_sentences",
    "stop_words",
    "word_lengths",
    "symbols",
    "line_ends",
    "repeated_lines",
    "boilerplate",
]
"""The rules of `corpus/quality.py` and `corpus/webrules.py`, cheapest first."""
Share = Annotated[float, Field(gt=0, le=1)]
MIN_PAIRS = 24
"""Fewer held-out pairs give no probe and no P(good): three folds of eight are the least to choose, to fit and to judge on."""


class Section(BaseModel):
    """A part of the recipe; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


class ModelSettings(Section):
    """The base model; every model of the run is fine-tuned from it."""

    base: str
    """A model folder, a .gguf file, `package:NAME` (a Python package that ships a GGUF), a hub id, or `fake` (scripted)."""
    max_tokens: int = Field(2048, ge=64)
    """Longest prompt and answer together, in tokens."""


class SeedInput(Section):
    """One JSONL file (.jsonl, .jsonl.gz) of human-written pairs."""

    path: str
    """A file, or `package:seed` for the pairs shipped with humpback."""
    instruction: str = "instruction"
    """Column of the instruction."""
    response: str = "response"
    """Column of the response."""
    skip_if: str | None = None
    """Rows where this column is not empty are left out (Dolly's `context`, Alpaca's `input`)."""
    licence: str = ""
    """Licence of the pairs, carried into the dataset."""


class SeedSettings(Section):
    """The seed D and the part of it that is held out."""

    inputs: list[SeedInput] = Field(min_length=1)
    sample: int | None = Field(None, ge=1)
    """Take this many pairs, chosen by content hash; null takes all."""
    holdout: int = Field(100, ge=8)
    """Pairs never trained on: they serve the audit and the evaluation."""
    max_response_chars: int = Field(6000, ge=1)
    """Longer responses are rejected with a reason."""


class CorpusInput(Section):
    """Documents: a file, a folder, an archive, `hub:OWNER/NAME` (a Hugging Face data set) or `pydoc:topics`.

    The kind of a file is told by its content first, then by its name: WARC, ARC, WET, HTML, Markdown, plain text, EPUB,
    JSONL, CSV, Parquet, Arrow; each also compressed (gzip, zstd, lz4), tar and zip archives of them.
    """

    path: str
    text: str = "text"
    """Column of the text (JSONL, CSV, Parquet, data sets)."""
    title: str = "title"
    """Column of the title; a missing column is an empty title."""
    header_path: str = "header_path"
    """Column of the header path (string or list) when records are ready segments."""
    source_uri: str = "source_uri"
    """Column of the record's own address; without it the record's location is its address."""
    licence_column: str = "licence"
    """Column of the record's own licence."""
    language: str = "language"
    """Column of the language, as an ISO 639-1 code."""
    time: str = "time"
    """Column of the time the record states for itself."""
    licence: str = ""
    """Licence of the documents, where the records do not state their own."""
    format: Literal["auto", "plain", "markdown", "html"] = "auto"
    """How headers are marked in the text; auto goes by content and name, in columns by each text's headers (`# Title`)."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    config: str | None = None
    """Configuration of a Hugging Face data set that has several."""


class EvaluationSet(Section):
    """Texts that must not be trained on: a JSONL file (.jsonl, .jsonl.gz) or a JSON list, one object per record."""

    path: str
    columns: list[str] = []
    """Columns to protect; empty protects every string of a record, nested ones too."""


class CorpusSettings(Section):
    """What is cut into segments, and which segments are fit."""

    inputs: list[CorpusInput] = Field(min_length=1)
    sample: int | None = Field(None, ge=1)
    """Keep this many segments, chosen by content hash; null keeps all."""
    min_chars: int = Field(600, ge=1)
    """Shortest segment (paper: 600)."""
    max_chars: int = Field(3000, ge=1)
    """Longest segment (paper: 3,000)."""
    filters: list[Filter] = list(get_args(Filter))
    """Rules a segment must pass; the empty list passes all."""
    max_repetition: float = Field(0.5, gt=0, le=1)
    """Segments in which two sentences share more than this Jaccard similarity of word 3-grams are dropped."""
    languages: list[str] = []
    """ISO 639-1 codes of the languages kept, for example [en]; empty keeps all."""
    min_language_score: float = Field(0.65, ge=0, le=1)
    """Surest language must be at least this probable (FineWeb: 0.65); only with `languages`."""
    pii: Literal["mask", "reject", "keep"] = "mask"
    """E-mail and IP addresses, numbers of phones, cards and social security, keys: masked, a reason to reject, or left."""
    licences: list[str] = []
    """Licences kept, for example [CC0-1.0, CC-BY-4.0]; others and unstated ones are rejected. Empty keeps all."""
    near_duplicates: float | None = Field(0.75, gt=0, le=1)
    """Texts whose word 5-grams have at least this Jaccard similarity (by MinHash) are one; null removes exact duplicates only."""
    decontaminate: list[EvaluationSet] = []
    """Evaluation sets: what shares a word 13-gram with one, or is one of its texts, is rejected."""
    max_rejected_chars: int = Field(100_000, ge=1)
    """Characters of its text that a rejected row keeps; `chars` in the row says how many there were."""
    max_line_bytes: int = Field(16_000_000, ge=1024)
    """Longest JSONL line, table cell or WARC record that is read, after decompression."""

    @field_validator("licences", "languages")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        if any(not item.strip() for item in value):
            raise ValueError(f"{value} names nothing in one place; take the empty name out")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars={self.min_chars} is above max_chars={self.max_chars}; no segment could pass")
        return self


class PromptSettings(Section):
    """Wording that users may replace."""

    rubric: str = "paper"
    """`paper` (five levels described), `additive` (points that add up), or a file with a rating prompt of your own for 1 to 5.

    Yours holds {instruction} and {response}; for `sampled_rating` the request for reasoning and a last line is put after it.
    """
    seed_tag: str = SEED_TAG
    """S_a, appended to instructions of seed pairs."""
    web_tag: str = WEB_TAG
    """S_w, appended to instructions of curated pairs."""


class AugmentSettings(Section):
    """How the backward model writes instructions."""

    temperature: float = Field(0.7, ge=0)
    """Paper: 0.7."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Paper: 0.9."""
    max_tokens: int = Field(128, ge=8)
    """Longest instruction, in tokens; one that does not end in time is rejected as `instruction_cut`."""


class GateSettings(Section):
    """When the backward model is good enough to write for all segments: a share whose interval lies beyond its limit stops the run."""

    segments: int = Field(200, ge=0)
    """Segments it writes for before the big run, capped by the corpus; 0 leaves the gate out."""
    max_echo: float = Field(0.05, ge=0, le=1)
    """Instructions that repeat the prompt."""
    max_copy: float = Field(0.3, ge=0, le=1)
    """Instructions that are a passage of their text."""
    max_empty: float = Field(0.1, ge=0, le=1)
    max_cut: float = Field(0.3, ge=0, le=1)
    """Instructions that do not end within augment.max_tokens."""
    max_duplicate: float = Field(0.3, ge=0, le=1)
    """Instructions that are the same as another."""
    max_other_language: float = Field(0.2, ge=0, le=1)
    """Instructions in another language than their text, of those whose languages are sure."""
    max_no_request: float = Field(0.5, ge=0, le=1)
    """English instructions that ask for nothing."""
    min_distinct: float = Field(0.2, ge=0, le=1)
    """Distinct verb-object pairs, of the instructions that have one."""
    min_lift_auc: float = Field(0.7, ge=0, le=1)
    """AUC of the backward lift of an instruction with its own text against another's; 0.5 is a coin."""


USUAL_SIGNALS: tuple[Signal, ...] = ("rating", "backward_lift", "forward_lift", "ifd", "probe")


class ScoreSettings(Section):
    """Which signals are computed, and when a rating counts as given."""

    signals: list[Signal] | None = Field(None, min_length=1)
    """null: those of rating, backward_lift, forward_lift, ifd and probe that the engine can compute, chosen as the run starts.
    A list is computed whole, or refused as the run starts."""

    @property
    def wanted(self) -> list[Signal]:
        """The signals named, or all that null asks of an engine that can."""
        return list(USUAL_SIGNALS) if self.signals is None else self.signals

    @field_validator("signals")
    @classmethod
    def _distinct(cls, value: list[Signal] | None) -> list[Signal] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"score.signals={value} names a signal twice; name each once")
        return value

    min_label_mass: float = Field(0.5, ge=0, le=1)
    """A rating whose five labels hold less probability than this is unparsed: it has no value, and is not low."""
    samples: int = Field(3, ge=1, le=64)
    """Replies drawn per pair for `sampled_rating`; its value is their mean."""
    sample_temperature: float = Field(0.7, ge=0)
    """Of those draws; 0 is greedy and gives one and the same reply, so it goes with `samples: 1`."""
    reasoning_tokens: int = Field(256, ge=16)
    """Longest reply for `sampled_rating`, in tokens; one that is cut before its score is asked for the score alone."""

    @model_validator(mode="after")
    def _different_samples(self) -> ScoreSettings:
        if self.samples > 1 and not self.sample_temperature:
            raise ValueError(
                f"samples={self.samples} with sample_temperature=0 draws the same reply each time; "
                "set samples=1, or a temperature such as 0.7"
            )
        return self


class CurateSettings(Section):
    """Which candidates become curated pairs."""

    signal: Literal[
        "auto", "p_good", "rating", "sampled_rating", "backward_lift", "forward_lift", "ifd", "probe", "text"
    ] = "auto"
    """What to select by: a signal, or `p_good`, all signals combined and calibrated on the audit.

    auto takes `p_good` where the audit of the model that scored shows it to be as good as any single signal, else the signal with
    the best audited AUC.
    """
    policy: Literal["threshold", "top", "precision", "diverse"] | None = None
    """threshold: ratings from `threshold` on (the paper). top: the best `top`. precision: P(good) from the lowest cut-off on that
    promises `precision`. diverse: the best `top`, spread out. null: threshold where the signal is a rating, else top."""
    threshold: float = 4.5
    """Lowest rating kept (paper: 4 or 4.5)."""
    top: float = 0.4
    """Kept, best first: a share (0 to 1] or a count (above 1). The paper's A_4 is a share of 0.39."""
    precision: float = Field(0.9, gt=0.5, lt=1)
    """With policy precision: the share of good pairs among the kept that the lower end of the interval (evaluate.confidence) must
    reach. Where it cannot, the stage stops and names the best that can."""
    prevalence: float | Literal["estimate"] = "estimate"
    """With policy precision: the share of good pairs among all candidates, 0 to 1, which a precision depends on. `estimate` takes
    the one that explains the candidates' P(good) best, half at most."""
    max_per_source: int = Field(20, ge=1)
    """With policy diverse: most pairs of one source document."""
    alike: float = Field(0.7, gt=0, le=1)
    """With policy diverse: instructions whose words have at least this Jaccard similarity (by MinHash) are one."""
    min_parsed: float = Field(0.5, ge=0, le=1)
    """Least share of the candidates on which a rating must have been given; what is unparsed is not low, it is not known."""
    when_unparsed: Literal["stop", "switch"] = "switch"
    """With fewer: stop, or select by the best other signal and say so."""
    labels: bool = False
    """Let the run's human labels (`humpback label`) correct P(good) and what precision is promised, in a stage
    `iteration-t/correct` before `curate`; too few are refused with a reason, and P(good) stays as it was. With other labels than
    it was made with, that stage is refused as stale; M_yx, M_0 and the scores of iteration 1 stay."""

    @field_validator("threshold")
    @classmethod
    def _threshold(cls, value: float) -> float:
        if not 1 <= value <= 5:
            raise ValueError(f"{value:g} is outside 1 to 5; the paper uses 4 or 4.5")
        return value

    @field_validator("prevalence")
    @classmethod
    def _prevalence(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(f"{value:g} is not between 0 and 1; give the share of good candidates, or estimate")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> CurateSettings:
        if self.policy == "precision" and self.signal not in ("auto", "p_good"):
            raise ValueError(
                f"policy=precision promises with P(good), not with signal={self.signal}; use p_good or auto"
            )
        if self.policy == "threshold" and self.signal not in ("auto", "rating", "sampled_rating"):
            raise ValueError(f"policy=threshold cuts ratings of 1 to 5, not {self.signal}; use policy=top or precision")
        if self.labels and (self.signal not in ("auto", "p_good") or self.policy == "threshold"):
            chosen = "policy=threshold" if self.policy == "threshold" else f"signal={self.signal}"
            raise ValueError(
                f"labels=true corrects P(good), which {chosen} does not select by; use signal=auto or p_good"
            )
        return self

    @field_validator("top")
    @classmethod
    def _top(cls, value: float) -> float:
        if not math.isfinite(value) or value <= 0 or (value > 1 and value != int(value)):
            raise ValueError(
                f"{value:g} is neither a share in (0, 1] nor a whole count above 1; for example 0.4 or 200"
            )
        return value


class RewriteSettings(Section):
    """The model that scored writes each curated response anew from its document (arXiv 2408.04614; not in the paper).

    A pair whose rewrite breaks a limit keeps its document, with the reason.
    """

    enabled: bool = False
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(768, ge=16)
    """Longest rewrite, in tokens; one that does not end in time is not taken."""
    min_length: float = Field(0.2, ge=0, le=1)
    """Least length of a rewrite, in characters, as a share of its document's."""
    max_length: float = Field(1.5, gt=0)
    """Greatest, likewise."""
    max_copied: float = Field(0.9, ge=0, le=1)
    """Greatest share of its words in runs of 8 words or more of the document: above it, it is the document again."""
    min_shared: float = Field(0.5, ge=0, le=1)
    """Least share of its different words that the document or the instruction holds: below it, it says other things."""
    min_lift_gain: float = 0.0
    """How much higher its forward lift under the model must be than the document's, nats per token; below 0 it may be lower."""


class MixSettings(Section):
    """What a model is trained on, and how much each part counts. Held-out pairs and `corpus.decontaminate` are always kept out."""

    seed_weight: float = Field(1.0, gt=0, le=100)
    """Draws of each seed pair in an epoch, on average: 2 is twice in every epoch, 0.5 in every other one."""
    curated_weight: float = Field(1.0, gt=0, le=100)
    """Draws of each curated pair in an epoch, on average."""
    loss_weight: Literal["p_good"] | None = None
    """p_good: the loss of a curated pair counts by its P(good), at least 0.01; that of a seed pair counts whole. null: all count
    whole."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "small": {"learning_rate": 1e-4, "final_learning_rate": 1e-5, "dropout": 0.0, "epochs": 1.0},
    "lora": {
        "method": "lora",
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-4,
        "dropout": 0.0,
        "epochs": 1.0,
    },
}
"""Values of `train` by the name of a preset; what is not in one is the paper's. A key that is given goes before its preset's."""


class TrainSettings(Section):
    """How every model of the run is fine-tuned from the base model."""

    preset: Literal["paper", "small", "lora"] = "paper"
    """Where the values come from that are not given. paper: of a 65B model. small: all weights of a model under about 1B
    parameters, which needs larger steps. lora: adapters on a model of any size."""
    command: str | None = None
    """A trainer of your own in place of ours, started with the path of the training spec for {spec}: `python mine.py {spec}`."""
    method: Literal["full", "lora", "qlora"] = "full"
    """full: all weights. lora: low-rank adapters, merged into the weights at the end. qlora: the same over weights held in 4 bits
    while training, where bitsandbytes is installed."""
    learning_rate: float = Field(1e-5, gt=0)
    """At the first step (paper: 1e-5)."""
    final_learning_rate: float = Field(9e-6, ge=0)
    """At the last step, reached linearly (paper: 9e-6)."""
    weight_decay: float = Field(0.1, ge=0)
    """Paper: 0.1."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Paper: 0.1."""
    warmup_steps: int = Field(0, ge=0)
    """The paper reports none."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient clipping."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; null takes `epochs`, or the paper's step table when that is null too."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the mix; null takes the paper's step table, interpolated."""
    batch_size: int | None = Field(None, ge=1)
    """Examples per optimizer step; null is the paper's: 8 below 3,000 examples, else 32."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of the adapters: alpha / rank."""
    held_out_share: float = Field(0.0, ge=0, le=0.5)
    """Share of a mix's rows, of seed and web alike, that is not trained on but measured while training. The run's own hold-out is
    not touched: it measures the models afterwards."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between the losses on held-out rows; null is a tenth of all steps."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many held-out losses in a row that are no better than the best; null trains to the end."""
    keep: Literal["last", "best"] = "last"
    """Which model is the result: after the last step, or of the step with the lowest held-out loss."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Put the preset's values where none are given; `steps` stands for `epochs`."""
        if not isinstance(values, dict) or values.get("preset") not in PRESETS:
            return values
        preset = dict(PRESETS[values["preset"]])
        if values.get("steps") is not None:
            preset.pop("epochs", None)
        return {**preset, **values}

    @field_validator("command")
    @classmethod
    def _command(cls, value: str | None) -> str | None:
        if value is not None and "{spec}" not in value:
            raise ValueError(f"train.command={value} lacks {{spec}}; for example: python mine.py {{spec}}")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs:g} are both set; keep one of them")
        if not self.held_out_share and (self.patience is not None or self.keep == "best"):
            raise ValueError("train.patience and train.keep=best need train.held_out_share, such as 0.05")
        if self.command and self.held_out_share:
            raise ValueError(
                f"train.held_out_share={self.held_out_share:g} is for our own trainer, and train.command trains on the whole mix; "
                "leave one of them out"
            )
        return self


class EvaluateSettings(Section):
    """What is measured at the end."""

    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of every interval."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of every interval."""
    corruptions: list[Corruption] = Field(list(get_args(Corruption)), min_length=1)
    """Ways in which the audit spoils held-out pairs. Fewer cost less, and P(good) is learnt from these alone."""
    labels: bool = False
    """Audit by the human labels of the run too (`humpback label`), in the stage `human` at the end; made with other labels, that
    stage is refused as stale. Here they decide nothing, and P(good) is the audit's, uncorrected; `curate.labels`
    lets them decide."""
    control: bool = True
    """Also train a control: seed and as many uncurated candidates as the last iteration curated."""


class VLLMSettings(Section):
    """The `vllm` engine. It batches by itself: `runtime.batch_tokens` does not bear on it."""

    python: str | None = None
    """Interpreter of an environment that has vLLM, for example .venv-vllm/bin/python; null is this one."""
    max_model_len: int | None = Field(None, ge=64)
    """Longest prompt and answer together, in tokens; null is model.max_tokens, and less is refused."""
    gpu_memory_utilization: float = Field(0.45, gt=0, le=1)
    """Share of a GPU's memory for one model. While scoring, two are loaded: M_t and the backward model."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that hold one model together."""
    enforce_eager: bool = False
    """Start faster and answer slower: no compilation, no CUDA graphs."""
    max_loras: int = Field(2, ge=1)
    """Adapters of one base model that are answered with at the same time."""
    start_timeout_s: float = Field(1800, gt=0)
    """Longest time to load a model, in seconds; then its process is started again."""
    stall_timeout_s: float = Field(600, gt=0)
    """Longest silence of an engine at work, in seconds; then its process is replaced and what it owes is asked again."""


class ServerSettings(Section):
    """An OpenAI-compatible server, for `engine: server`. A run needs `command`: it trains models, and starts a server for each.

    `url`, a server that is there, is for `humpback doctor --server` and the Python API.
    """

    command: str | None = None
    """Starts a server that humpback stops again, with {model} and {port} to be filled in: `vllm serve {model} --port {port}`."""
    url: str | None = None
    """A server that is there and serves one model, for example http://127.0.0.1:8000/v1; a recipe's run is refused it."""
    model: str | None = None
    """Name under which the server serves it; null takes the only one it lists."""
    tokenizer: str | None = None
    """With `url`, a folder or hub id, or `estimate` for a chat endpoint whose tokenizer is not to be had; null takes the model's
    own, which is what a run needs."""
    api_key_env: str | None = None
    """Environment variable that holds the key, for example OPENAI_API_KEY; null sends none."""
    concurrency: int = Field(64, ge=1, le=4096)
    """Most requests in flight; fewer while the server is overloaded, or no faster for more."""
    timeout_s: float = Field(120, gt=0)
    """Longest wait for one reply; then the request is sent again."""
    deadline_s: float = Field(300, gt=0)
    """Longest time for one row, all tries together; then the row fails."""
    patience_s: float = Field(300, gt=0)
    """A server that answers nothing for this long stops the run."""
    start_s: float = Field(900, gt=0)
    """Longest time from starting `command` to its first answer."""

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):  # not shown: it may be the key itself
            raise ValueError(
                "runtime.server.api_key_env is not the name of an environment variable (capitals, digits, _); "
                "never write a key into a recipe: export OPENAI_API_KEY=... and set api_key_env: OPENAI_API_KEY"
            )
        return value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urllib.parse.urlsplit(value)
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown: it may hold a key
            raise ValueError(
                "runtime.server.url holds a user, a query or a fragment; give the bare address, and the key's variable "
                "as runtime.server.api_key_env"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"runtime.server.url={value} is no web address; for example http://127.0.0.1:8000/v1")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> ServerSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError(
                "runtime.server needs either command (started for each model: what a run needs) or url (a server that is "
                "there: for `humpback doctor --server` and the Python API)"
            )
        if self.command is not None:
            lacking = [name for name in ("{model}", "{port}") if name not in self.command]
            if lacking:
                raise ValueError(
                    f"runtime.server.command={self.command} lacks {' and '.join(lacking)}; for example: "
                    "vllm serve {model} --host 127.0.0.1 --port {port}"
                )
        return self


class TrainingDevices(Section):
    """What trains, and how it is spread. A run may be resumed with other values, but a killed training keeps its `processes`."""

    processes: int = Field(1, ge=1)
    """Processes that train one model together, one per GPU; a batch's rows are split over them."""
    sharding: Literal["none", "full"] = "none"
    """none: every GPU holds the whole model (DDP). full: weights, gradients and optimizer state are split over them (FSDP2)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; full training keeps float32 weights. auto: bfloat16 on a GPU that has it, else float32."""
    recompute: bool | None = None
    """Compute activations again in the backward pass (gradient checkpointing): less memory, about a third slower. null: on a GPU,
    when a pass would not fit otherwise."""


class RuntimeSettings(Section):
    """How to compute. Outside identity: no result depends on it, beyond the rounding of another device or batch."""

    engine: Literal["hf", "vllm", "server", "fake"] = "hf"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: NumberFormat = "auto"
    """Of weights and activations while asking a model (training has its own). auto is bfloat16 on a GPU (float16 on one that has
    none) and, on a CPU, the faster of float32 and bfloat16: hf measures it when it opens, vllm takes float32. Answers differ by
    rounding and are kept under one key whatever the format, as for another device."""
    batch_tokens: int | None = Field(None, ge=64)
    """Token budget of one forward pass of the hf engine; null is 2,048 on a CPU and 16,384 on a GPU. Halved when memory runs out."""
    train_batch_tokens: int | None = Field(None, ge=64)
    """Token budget of one training micro-batch; null is 512 on a CPU (faster there, and smaller) and 8,192 on a GPU."""
    save_every: int = Field(50, ge=1)
    """Training steps between checkpoints: the most that a kill costs."""
    training: TrainingDevices = TrainingDevices()
    """Devices of the training alone."""
    workers: int = Field(1, ge=1)
    """Processes for ingest, augment and score; each holds its own engine, but for vllm, which serves all rows by itself."""
    report_to: list[Reporter] = []
    """Services that follow every training, besides the run's own report; addresses and keys come from the environment."""
    shard_rows: int = Field(512, ge=1)
    """Rows of one shard, the unit of work that is finished or not."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; null leaves it to torch."""
    cache: str | None = None
    """File of the answer cache, or a folder for it; null keeps one in the run folder. A shared file serves several runs."""
    model_cache: str | None = None
    """Folder for converted models; null is ~/.cache/humpback."""
    vllm: VLLMSettings = VLLMSettings()
    server: ServerSettings | None = None
    """For `engine: server`."""

    @model_validator(mode="after")
    def _served(self) -> RuntimeSettings:
        if self.engine == "server" and self.server is None:
            raise ValueError("runtime.engine=server needs runtime.server.command, which starts a server for each model")
        if self.engine == "server" and self.server and self.server.command and self.workers > 1:
            raise ValueError(
                f"runtime.workers={self.workers} would start as many servers of each model; set runtime.workers=1: one "
                "server is asked many things at once (runtime.server.concurrency)"
            )
        return self


class Recipe(Section):
    """A whole run."""

    random_seed: int = Field(0, ge=0)
    """All randomness derives from it, the stage and the record id."""
    iterations: int | Literal["auto"] = 2
    """T of the paper: how often candidates are scored, curated and trained on (paper: 2). auto goes on while M_t is better than
    M_(t-1) on held-out responses, the whole paired interval below zero, and not surely worse by the audited AUC of what curated;
    it keeps the best model."""
    max_iterations: int = Field(4, ge=1, le=100)
    """With `iterations: auto`, the most."""
    model: ModelSettings
    seed: SeedSettings
    corpus: CorpusSettings
    prompts: PromptSettings = PromptSettings()
    augment: AugmentSettings = AugmentSettings()
    gate: GateSettings = GateSettings()
    score: ScoreSettings = ScoreSettings()
    curate: CurateSettings = CurateSettings()
    mix: MixSettings = MixSettings()
    rewrite: RewriteSettings = RewriteSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @field_validator("iterations")
    @classmethod
    def _iterations(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value == "auto":
            return value
        if value < 1:
            raise ValueError(f"{value} leaves nothing to curate; use 1 or more, the paper uses 2")
        if value > 100:
            raise ValueError(f"{value} is more than 100; each iteration trains a model, the paper uses 2")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        chosen = self.curate.signal
        if chosen not in ("auto", "p_good") and chosen not in self.score.wanted:
            raise ValueError(f"curate.signal={chosen} is not computed; add it to score.signals={self.score.wanted}")
        if (self.model.base == "fake") != (self.runtime.engine == "fake"):
            raise ValueError(
                f"model.base={self.model.base} does not fit runtime.engine={self.runtime.engine}; "
                "the scripted model and the scripted engine go together: set both to fake, or neither"
            )
        if self.model.max_tokens < self.augment.max_tokens + 256:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves no room for a document beside "
                f"augment.max_tokens={self.augment.max_tokens}; use at least {self.augment.max_tokens + 256}"
            )
        if self.rewrite.enabled and self.model.max_tokens < 2 * self.rewrite.max_tokens:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves less room for a document than rewrite.max_tokens="
                f"{self.rewrite.max_tokens} for its rewrite; use at least {2 * self.rewrite.max_tokens}, or shorter rewrites"
            )
        if self.train.method == "qlora" and self.runtime.training.sharding == "full":
            raise ValueError(
                "runtime.training.sharding=full does not split weights held in 4 bits (train.method=qlora); use sharding=none, "
                "or train.method=lora"
            )
        longest = self.runtime.vllm.max_model_len
        if self.runtime.engine == "vllm" and longest is not None and longest < self.model.max_tokens:
            raise ValueError(
                f"runtime.vllm.max_model_len={longest} is below model.max_tokens={self.model.max_tokens}: what lies between "
                "would fail, and no runtime setting may change results; lower model.max_tokens, or leave max_model_len out"
            )
        reply = self.score.reasoning_tokens
        if "sampled_rating" in self.score.wanted and self.model.max_tokens < reply + 512:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves no room for a rubric and a pair beside "
                f"score.reasoning_tokens={reply}; use at least {reply + 512}, or shorter replies"
            )
        return self

    @model_validator(mode="after")
    def _learnable(self) -> Recipe:
        """Refuse to select by what so few held-out pairs cannot teach, before a model is trained."""
        asked = [f"curate.signal={self.curate.signal}"] * (self.curate.signal in ("p_good", "probe"))
        asked += ["curate.policy=precision"] * (self.curate.policy == "precision")
        asked += ["mix.loss_weight=p_good"] * (self.mix.loss_weight == "p_good")
        asked += ["curate.labels=true, which corrects P(good),"] * self.curate.labels
        if asked and self.seed.holdout < MIN_PAIRS:
            raise ValueError(
                f"{asked[0]} is learnt from the held-out pairs, and seed.holdout={self.seed.holdout} are too few; "
                f"hold out {MIN_PAIRS} or more, or take curate.signal=auto and another policy"
            )
        return self


class CorpusRecipe(Section):
    """The part of a recipe that `humpback ingest` needs."""

    random_seed: int = Field(0, ge=0)
    """What `corpus.sample` is drawn by."""
    corpus: CorpusSettings


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `section.key=value` overrides; raise RecipeError with every fault and its fix."""
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    return check_section(Recipe, data, f"recipe {path}")


def load_corpus(path: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> CorpusRecipe:
    """Return the corpus section of a recipe, or none's, with the keys given instead of its own, and overrides."""
    data = {key: value for key, value in read_yaml(path).items() if key in CorpusRecipe.model_fields} if path else {}
    corpus = data.get("corpus") or {}
    if not isinstance(corpus, dict):
        raise RecipeError(f"recipe {path}: corpus is a value, not a section; see `humpback init`")
    data["corpus"] = {**corpus, **given}
    for override in overrides:
        apply_override(data, override)
    return check_section(CorpusRecipe, data, f"recipe {path}" if path else "what is asked for")


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two values for one key, YAML takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands twice in one section; keep one of them", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str = "recipe", fix: str = "`humpback init {path}` writes a starter") -> dict[str, Any]:
    """Return the sections of a YAML file as plain values; `what` it is and the `fix` where it is missing are for messages."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{what} {path} does not exist; {fix.format(path=path)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{what} {path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{what} {path} cannot be read: {error.strerror}; give a YAML file") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        raise RecipeError(f"{what} {path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        held = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"{what} {path} holds {held}, not sections; see `humpback init`")
    return data


def check_section(kind: type[S], data: Mapping[str, Any], what: str) -> S:
    """Return a section from plain values; raise RecipeError with every fault and its fix."""
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as error:
        faults = "\n".join(f"  {line}" for line in _explain(error, kind))
        raise RecipeError(f"{what} is not valid:\n{faults}") from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def read_rubric(settings: PromptSettings) -> str:
    """Return the rubric of that name or in that file; raise InputError when it lacks a placeholder."""
    if settings.rubric in RUBRICS:
        return RUBRICS[settings.rubric]
    path = Path(settings.rubric)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"prompts.rubric={path} cannot be read: {error}; give a UTF-8 text file, or {' or '.join(RUBRICS)}"
        ) from None
    for name in ("{instruction}", "{response}"):
        if text.count(name) != 1:
            raise InputError(f"prompts.rubric={path} holds {name} {text.count(name)} times; it must hold it once")
    if text.index("{instruction}") > text.index("{response}"):
        raise InputError(f"prompts.rubric={path} has {{response}} before {{instruction}}; put the instruction first")
    return text


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted key of plain values, in place."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"override {override!r} is not KEY=VALUE; for example --set curate.threshold=4")
    *parents, last = key.strip().split(".")
    node: Any = data
    for parent in parents:
        node = _descend(node, parent, key)
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        parsed = value
    if isinstance(node, list):
        node[_index(node, last, key)] = parsed
    else:
        node[last] = parsed


def _descend(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    child = node.setdefault(name, {})
    if child is None:
        child = node[name] = {}
    if not isinstance(child, dict | list):
        raise RecipeError(f"override {key}: {name} is a value, not a section")
    return child


def _index(node: Sequence[object], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise RecipeError(
            f"override {key}: {name!r} is not an index of a list of {len(node)}; use 0 to {len(node) - 1}"
        )
    return int(name)


def _explain(error: pydantic.ValidationError, kind: type[Section]) -> Iterator[str]:
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        value = fault["input"]
        told = "empty" if value is None else value
        shown = f"{where}={told}" if isinstance(told, str | int | float) and where else where or "recipe"
        if fault["type"] == "extra_forbidden":
            yield f"{where} is not a key of the {_noun(kind)}{_nearest(fault['loc'], kind)}"
        elif fault["type"] == "missing":
            fix = " (`humpback init` shows how)" if _noun(kind) == "recipe" else ""
            yield f"{where} is missing; every {_noun(kind)} needs it{fix}"
        elif fault["type"] == "value_error":
            message = str(fault["msg"]).removeprefix("Value error, ")
            yield f"{where}={message}" if (fault["loc"] and message[:1].isdigit()) or message[:1] == "-" else message
        else:
            yield f"{shown}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _noun(kind: type[Section]) -> str:
    return "study" if kind.__name__.endswith("Study") else "recipe"


def _nearest(loc: tuple[int | str, ...], kind: type[Section]) -> str:
    section: Any = kind
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        inner = getattr(annotation, "__args__", (annotation,))[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ""
        section = inner
    valid = list(section.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; valid keys here: {', '.join(valid)}"


def identity_of(section: BaseModel) -> Mapping[str, Any]:
    """Return a section as plain values for a stage's identity."""
    return section.model_dump(mode="json")
