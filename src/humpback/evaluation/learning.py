"""The only file that imports scikit-learn, and only when it is called: likeness of texts, and regularised logistic models.

A model is kept as plain arrays, so that what is stored and sent to workers needs no scikit-learn and no pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "LinearModel", "fit_logistic", "text_similarities", "word_counts"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """A logistic model: classes told apart by linear functions of standardised features. F features, K functions."""

    center_F: Floats
    scale_F: Floats
    weights_F_K: Floats
    intercept_K: Floats

    def margins(self, features_N_F: Floats) -> Floats:
        """Return the log-odds of the first class, whatever else the row may be, [N]."""
        z_N_F = (features_N_F - self.center_F) / self.scale_F
        z_N_K = z_N_F @ self.weights_F_K + self.intercept_K
        if z_N_K.shape[1] == 1:
            return np.asarray(z_N_K[:, 0])
        rest = z_N_K[:, 1:]
        top = rest.max(1)
        return np.asarray(z_N_K[:, 0] - top - np.log(np.exp(rest - top[:, None]).sum(1)))


def fit_logistic(
    features_N_F: Floats, classes: Sequence[int], *, strength: float, weights: Floats | None = None
) -> LinearModel:
    """Fit a logistic model with an L2 penalty; class 0 is what the margins speak for.

    `strength` is the inverse of the penalty. Without `weights`, class 0 weighs as much as all others together, which weigh alike.
    """
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(classes)
    weights = balanced(labels) if weights is None else weights
    center, scale = features_N_F.mean(0), features_N_F.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-4)
    model.fit((features_N_F - center) / scale, labels, sample_weight=weights)
    sign = -1.0 if len(model.classes_) == 2 else 1.0  # with two classes scikit-learn's one function speaks for the second
    return LinearModel(
        center_F=center,
        scale_F=scale,
        weights_F_K=sign * model.coef_.T.astype(np.float64),
        intercept_K=sign * model.intercept_.astype(np.float64),
    )


def balanced(labels: npt.NDArray[np.int64]) -> Floats:
    """Return weights with which class 0 and all others together weigh half each, the others alike; their sum is the rows'."""
    kinds, counts = np.unique(labels, return_counts=True)
    others = max(len(kinds) - 1, 1)
    share = {kind: (0.5 if kind == 0 else 0.5 / others) / n for kind, n in zip(kinds.tolist(), counts, strict=True)}
    return np.array([share[label] * len(labels) for label in labels.tolist()], dtype=np.float64)


def text_similarities(texts: Sequence[str]) -> Floats:
    """Return the cosine of the texts' TF-IDF weights of words and word pairs, [n, n]; 0 for a text without words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    pattern = r"(?u)\b\w+\b|\S"  # a text of signs alone has signs for words
    weights = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=pattern).fit_transform(texts)
    return np.asarray((weights @ weights.T).todense(), dtype=np.float64)


def word_counts(texts: Sequence[str], others: Sequence[str]) -> tuple[Floats, Floats]:
    """Return log counts of words and word pairs of `texts`, and of `others` in the same columns: what a bag of words knows."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(ngram_range=(1, 2), min_df=2, max_features=5000, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
    counted = counter.fit_transform(texts)
    return np.log1p(counted.toarray().astype(np.float64)), np.log1p(counter.transform(others).toarray().astype(np.float64))
