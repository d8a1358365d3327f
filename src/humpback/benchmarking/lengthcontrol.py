"""The length-controlled win rate: what the win rate would be, were both outputs equally long.

The published model (Dubois et al. 2024, arXiv 2404.04475), fitted by ourselves: for a model m and a prompt x

    logit P(m wins on x) = theta_m + phi_m tanh(length difference / its standard deviation) + psi_m gamma_x

theta is the model's strength, phi how far the judge prefers its longer outputs, gamma the prompt's difficulty, shared by all
models, and psi how strongly a model feels it. The win rate is the mean over prompts with phi = 0. All parameters are found at once,
as the mode of the posterior under normal priors (scipy's L-BFGS); the recorded preference is a probability and enters as one.

The priors are the one thing that is ours. AlpacaEval holds phi near what it is for the baseline made longer and shorter, with
preferences that its repository keeps elsewhere; a prior on phi stands for them. Its centre and width were chosen on the leaderboard
of AlpacaEval 1 and 2 together: docs/method.md has the deviation that is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from humpback.benchmarking.comparisons import Comparison
from humpback.errors import InputError

__all__ = ["MIN_MODELS", "Difficulty", "control_lengths", "control_pair", "fit_difficulty"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Priors:
    """Centres and standard deviations of the normal priors; theta and gamma are centred at 0."""

    phi: float = 1.55
    phi_sd: float = 0.3
    psi: float = 1.0
    psi_sd: float = 0.2
    theta_sd: float = 10.0
    gamma_sd: float = 1.4


ALPACA_EVAL = _Priors()
ANY_JUDGE = _Priors(phi=0.0, phi_sd=3.0)
"""Of a judge whose taste for length nothing is known of."""
MIN_MODELS = 5
"""Fewest models from which a prompt's difficulty is fitted: what one model finds hard is not yet the prompt's difficulty."""


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How hard the prompts are to win, on the logit scale; below 0 is harder."""

    by_prompt: Mapping[str, float]
    models: int
    """Models it was fitted from, the baseline against itself apart."""


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Comparisons as arrays; N rows, M models, X prompts."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    model_N: Ints
    prompt_N: Ints
    length_N: Floats
    share_N: Floats


def fit_difficulty(comparisons: Sequence[Comparison]) -> Difficulty:
    """Fit the prompts' difficulty from the recorded preferences of several models."""
    models = {c.model for c in comparisons if c.model != c.baseline}
    if len(models) < MIN_MODELS:
        raise InputError(
            f"the difficulty of prompts needs the preferences of {MIN_MODELS} models or more, and there are {len(models)}; give more "
            "annotations, or recorded ones of other models as --difficulty-from"
        )
    data = _arrange([c for c in comparisons if c.model != c.baseline])
    parameters = _fit(data, None, ALPACA_EVAL)
    return Difficulty(
        by_prompt=dict(zip(data.prompts, parameters[3 * len(data.models) :].tolist(), strict=True)), models=len(models)
    )


def control_lengths(comparisons: Sequence[Comparison], difficulty: Difficulty) -> dict[str, float]:
    """Return each model's win rate in percent at equal lengths; 50 for the baseline against itself."""
    missing = {c.prompt for c in comparisons} - difficulty.by_prompt.keys()
    if missing:
        raise InputError(
            f"{len(missing)} prompts have no difficulty, for example {min(missing)[:80]!r}; the annotations given as "
            "--difficulty-from must be of the same prompts, in the same kind of file"
        )
    rates = {c.model: 50.0 for c in comparisons if c.model == c.baseline}
    others = [c for c in comparisons if c.model != c.baseline and c.share is not None]
    if not others:
        return rates
    data = _arrange(others)
    gamma_X = np.array([difficulty.by_prompt[prompt] for prompt in data.prompts])
    theta_M, _, psi_M = _fit(data, gamma_X, ALPACA_EVAL).reshape(3, len(data.models))
    from scipy.special import expit

    equal_N = expit(theta_M[data.model_N] + psi_M[data.model_N] * gamma_X[data.prompt_N])
    counts_M = np.bincount(data.model_N)
    return rates | dict(zip(data.models, (100 * np.bincount(data.model_N, equal_N) / counts_M).tolist(), strict=True))


def control_pair(comparisons: Sequence[Comparison]) -> float:
    """Return one model's win rate in percent at equal lengths, from its own comparisons alone.

    Without other models nothing is known of the prompts' difficulty, so it is 0 for all, and the judge's taste for length is what
    these comparisons show: other figures than AlpacaEval's.
    """
    from scipy.special import expit

    data = _arrange(comparisons)
    theta = _fit(data, np.zeros(len(data.prompts)), ANY_JUDGE)[0]
    return float(100 * expit(theta))


def _arrange(comparisons: Sequence[Comparison]) -> _Data:
    judged = [c for c in comparisons if c.share is not None]
    models, prompts = sorted({c.model for c in judged}), sorted({c.prompt for c in judged})
    place_m, place_x = {name: i for i, name in enumerate(models)}, {name: i for i, name in enumerate(prompts)}
    model_N = np.array([place_m[c.model] for c in judged], dtype=np.int64)
    longer_N = np.array([c.model_chars - c.baseline_chars for c in judged], dtype=np.float64)
    for place in range(len(models)):
        rows = model_N == place
        # outputs of one length, or a single one, say nothing about length
        spread = float(longer_N[rows].std(ddof=1)) if rows.sum() > 1 else 0.0
        longer_N[rows] = np.tanh(longer_N[rows] / spread) if spread else 0.0
    return _Data(
        models=tuple(models),
        prompts=tuple(prompts),
        model_N=model_N,
        prompt_N=np.array([place_x[c.prompt] for c in judged], dtype=np.int64),
        length_N=longer_N,
        share_N=np.array([c.share for c in judged], dtype=np.float64),
    )


def _fit(data: _Data, known_X: Floats | None, priors: _Priors) -> Floats:
    """Return theta, phi and psi of every model in a row, and after them gamma of every prompt unless it is known."""
    from scipy.optimize import minimize
    from scipy.special import expit

    m, x = len(data.models), len(data.prompts) if known_X is None else 0
    centre = np.concatenate([np.zeros(m), np.full(m, priors.phi), np.full(m, priors.psi), np.zeros(x)])
    sizes = ((m, priors.theta_sd), (m, priors.phi_sd), (m, priors.psi_sd), (x, priors.gamma_sd))
    width = np.concatenate([np.full(count, sd) for count, sd in sizes])

    def lose(parameters: Floats) -> tuple[float, Floats]:
        """Return minus the log posterior and its slope."""
        theta_M, phi_M, psi_M = parameters[: 3 * m].reshape(3, m)
        gamma_N = (parameters[3 * m :] if known_X is None else known_X)[data.prompt_N]
        psi_N = psi_M[data.model_N]
        logit_N = theta_M[data.model_N] + phi_M[data.model_N] * data.length_N + psi_N * gamma_N
        over_N = expit(logit_N) - data.share_N
        off = (parameters - centre) / width
        slopes = [np.bincount(data.model_N, over_N * by, m) for by in (1.0, data.length_N, gamma_N)]
        if known_X is None:
            slopes.append(np.bincount(data.prompt_N, over_N * psi_N, x))
        value = float((np.logaddexp(0, logit_N) - data.share_N * logit_N).sum() + (off @ off) / 2)
        return value, np.concatenate(slopes) + off / width

    found = minimize(
        lose, centre, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12}
    )
    return np.asarray(found.x, dtype=np.float64)
