"""The only file that imports scikit-learn, and only when it is called: likeness of texts, and regularised logistic models.

A model is kept as plain arrays, so that what is stored and sent to workers needs no scikit-learn and no pickle. Class 0 is the
true pair everywhere; every other class is a way in which a pair may be spoilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Floats",
    "Labels",
    "LinearModel",
    "Mask",
    "Projection",
    "balance",
    "fit_logistic",
    "log_odds",
    "text_similarities",
    "word_counts",
]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

COMPONENTS = 256
"""Principal components kept of wide features."""


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """A logistic model: one linear function of standardised features for each class. F features, K classes."""

    classes: tuple[int, ...]
    """The classes it was taught, 0 first."""
    center_F: Floats
    scale_F: Floats
    weights_F_K: Floats
    intercept_K: Floats

    @classmethod
    def empty(cls) -> LinearModel:
        """Return a model of no features, to be replaced."""
        nothing = np.zeros(0)
        return cls(
            classes=(0, 1), center_F=nothing, scale_F=nothing, weights_F_K=np.zeros((0, 2)), intercept_K=np.zeros(2)
        )

    def outputs(self, features_N_F: Floats) -> Floats:
        """Return each class's function, [N, K]."""
        z_N_F = (features_N_F - self.center_F) / self.scale_F
        return np.asarray(z_N_F @ self.weights_F_K + self.intercept_K)

    def margins(self, features_N_F: Floats) -> Floats:
        """Return the log-odds of class 0 against all others together, [N]."""
        return log_odds(self.outputs(features_N_F))


def log_odds(outputs_N_K: Floats) -> Floats:
    """Return the log-odds of the first column against all others together."""
    rest = outputs_N_K[:, 1:]
    top = rest.max(1)
    return np.asarray(outputs_N_K[:, 0] - top - np.log(np.exp(rest - top[:, None]).sum(1)))


def fit_logistic(features_N_F: Floats, classes: Labels, *, strength: float) -> LinearModel:
    """Fit a logistic model with an L2 penalty on standardised features; `strength` is the inverse of the penalty."""
    center, scale = features_N_F.mean(0), features_N_F.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    taught, weights, intercept = _fit((features_N_F - center) / scale, classes, strength)
    return LinearModel(classes=taught, center_F=center, scale_F=scale, weights_F_K=weights, intercept_K=intercept)


def _fit(z_N_F: Floats, classes: Labels, strength: float) -> tuple[tuple[int, ...], Floats, Floats]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-3)
    model.fit(z_N_F, classes, sample_weight=balance(classes))
    weights, intercept = model.coef_.T.astype(np.float64), model.intercept_.astype(np.float64)
    if weights.shape[1] == 1:  # of two classes scikit-learn tells the second one's function only
        weights, intercept = np.pad(weights, ((0, 0), (1, 0))), np.pad(intercept, (1, 0))
    return tuple(int(label) for label in model.classes_), weights, intercept


def balance(classes: Labels) -> Floats:
    """Return weights with which class 0 and all others together weigh half each, the others alike; their sum is the rows'."""
    kinds, counts = np.unique(classes, return_counts=True)
    others = max(len(kinds) - 1, 1)
    share = {kind: (0.5 if kind == 0 else 0.5 / others) / n for kind, n in zip(kinds.tolist(), counts, strict=True)}
    return np.array([share[label] * len(classes) for label in classes.tolist()], dtype=np.float64)


class Projection:
    """Rows of wide features on their principal components, so that many models over them are quick to fit.

    Those beyond `COMPONENTS` hold next to nothing of the rows.
    """

    def __init__(self, features_N_F: Floats, basis: Mask | None = None) -> None:
        """`basis` says which rows the components are found on, all by default."""
        shown = features_N_F if basis is None else features_N_F[basis]
        self._center_F, scale = shown.mean(0), shown.std(0)
        self._scale_F = np.where(scale > 0, scale, 1.0)
        z_N_F = (shown - self._center_F) / self._scale_F
        wide = z_N_F.shape[1] > z_N_F.shape[0]
        values, vectors = np.linalg.eigh(z_N_F @ z_N_F.T if wide else z_N_F.T @ z_N_F)
        best = np.argsort(values)[::-1][:COMPONENTS]
        best = best[values[best] > 1e-9 * max(float(values[best[0]]), 1e-12)]
        self._axes_F_P = z_N_F.T @ (vectors[:, best] / np.sqrt(values[best])) if wide else vectors[:, best]
        self.rows_N_P = np.asarray(((features_N_F - self._center_F) / self._scale_F) @ self._axes_F_P)

    def fit(self, classes: Labels, *, strength: float) -> LinearModel:
        """Fit on all rows; the model takes the features themselves."""
        taught, weights, intercept = _fit(self.rows_N_P, classes, strength)
        return LinearModel(
            classes=taught,
            center_F=self._center_F,
            scale_F=self._scale_F,
            weights_F_K=self._axes_F_P @ weights,
            intercept_K=intercept,
        )

    def cross(self, classes: Labels, folds: Labels, *, strength: float, taught: Mask | None = None) -> Floats:
        """Return each row's function of every class by a model fitted on the other folds, [N, largest class + 1].

        `taught` says which rows may be learnt from, all by default. A class that a fold's model was not taught is NaN.
        """
        taught = np.ones(len(classes), dtype=bool) if taught is None else taught
        outputs = np.full((len(classes), int(classes.max()) + 1), np.nan)
        for fold in np.unique(folds):
            learn, read = taught & (folds != fold), folds == fold
            kinds, weights, intercept = _fit(self.rows_N_P[learn], classes[learn], strength)
            outputs[np.ix_(read, kinds)] = self.rows_N_P[read] @ weights + intercept
        return outputs


def text_similarities(texts: Sequence[str]) -> Floats:
    """Return the cosine of the texts' TF-IDF weights of words and word pairs, [n, n]; 0 for a text without words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    pattern = r"(?u)\b\w+\b|[^\w\s]"  # a text of signs alone has signs for words
    texts = [f"{text} ." for text in texts]
    weights = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=pattern).fit_transform(texts)
    return np.asarray((weights @ weights.T).todense(), dtype=np.float64)


def word_counts(texts: Sequence[str]) -> Floats:
    """Return log counts of words, signs and pairs of them that occur twice or more: what a bag of words knows of each text."""
    from sklearn.feature_extraction.text import CountVectorizer

    pattern = r"(?u)\b\w+\b|[^\w\s]"
    counter = CountVectorizer(ngram_range=(1, 2), min_df=2, max_features=5000, token_pattern=pattern)
    return np.asarray(np.log1p(counter.fit_transform([f"{text} ." for text in texts]).toarray()), dtype=np.float64)
