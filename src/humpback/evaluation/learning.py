"""The only file that imports scikit-learn, when it is called: likeness of texts and regularised logistic models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["text_similarities"]

Floats = npt.NDArray[np.float64]


def text_similarities(texts: Sequence[str]) -> Floats:
    """Return the cosine of the texts' TF-IDF weights of words and word pairs, [n, n]."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weights = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    return np.asarray((weights @ weights.T).todense(), dtype=np.float64)
