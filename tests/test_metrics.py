"""`common.metrics` against plain NumPy."""

import numpy as np
import pytest

from common import metrics


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_perplexity_is_that_of_all_tokens_whatever_the_batch_size(batch_size):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20, 6, 11)).astype("float32") * 3
    tokens = generator.integers(0, 11, size=(20, 6))
    mask = np.arange(6) < generator.integers(1, 7, size=(20, 1))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(log_probabilities, tokens[..., None], axis=-1)[..., 0]
    expected = np.exp(losses[mask].sum() / mask.sum())

    metric = metrics.Perplexity()
    for start in range(0, 20, batch_size):
        part = slice(start, start + batch_size)
        metric.update_state(tokens[part], logits[part], sample_weight=mask[part])
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)

    unmasked = metrics.Perplexity()
    unmasked.update_state(tokens, logits)
    assert float(unmasked.result()) == pytest.approx(np.exp(losses.mean()), rel=1e-5)
