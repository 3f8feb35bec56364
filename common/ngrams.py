"""A language model of n-grams, a baseline."""

import collections

import numpy as np


def ngram_surprisal(train_text, text, vocabulary_size, order=7, discounts=(0, 0.85, 1.2, 1.5)):
    """The nats of every character of `text` (T,), by modified Kneser-Ney smoothing of all counts before it.

    The model goes on counting in `text`, which it predicts one character after another. Order and discounts are those
    that predict the validation split of tiny_shakespeare best. The smoothing is that of Chen and Goodman, An Empirical
    Study of Smoothing Techniques for Language Modeling, 1998, with discounts that do not depend on the order.
    """
    whole, nats = train_text + text, []
    following = collections.defaultdict(collections.Counter)  # {context: {next character: count}}
    for place, character in enumerate(whole):
        contexts = [whole[start:place] for start in range(place, max(-1, place - order), -1)]  # The shortest first.
        if place >= len(train_text):
            estimate = 1 / vocabulary_size
            for seen in filter(None, map(following.get, contexts)):
                freed = sum(discounts[min(count, 3)] for count in seen.values())
                estimate = (seen[character] - discounts[min(seen[character], 3)] + freed * estimate) / seen.total()
            nats.append(-np.log(estimate))
        for context in reversed(contexts):
            following[context][character] += 1
            if following[context][character] > 1:
                break  # A shorter context counts different characters before it, not how often each occurs.
    return np.array(nats)
