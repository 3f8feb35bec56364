"""Phrase-based translation, the state of the art before neural networks, as a baseline: Koehn, Och and Marcu 2003.

It counts what phrases become in translations (https://aclanthology.org/N03-1017); here they keep their order.
"""

import collections
import heapq
import math
import re

import numpy as np

WORD_OR_MARK = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
PHRASE_LENGTH = 5  # Words of a source phrase, at most.
BEAM_SIZE = 5  # How many translations of the same source words are kept, and how many of the same phrase are tried.


def translate_by_phrases(known, translations, texts, fluency=0.4, word_bonus=1.8):
    """Translates texts, in lower case, after the example of known texts and their translations; unknown words stay.

    fluency: the weight of the language model's log-probability, relative to that of the phrases.
    word_bonus: what each written word adds to the score; longer translations would be less likely without it.
    """
    pairs = [(words_of(source), words_of(target)) for source, target in zip(known, translations, strict=True)]
    pairs = [(source, target) for source, target in pairs if source and target]
    table = phrase_table(pairs)
    language_model = trigram_model(target for _, target in pairs)
    best = [search(words_of(text), table, language_model, fluency, word_bonus) for text in texts]
    return [re.sub(r" (?=[.,;:!?])", "", " ".join(words)) for words in best]


def words_of(text):
    """The words and punctuation marks of a text, in lower case, as a tuple of str."""
    return tuple(WORD_OR_MARK.findall(text.lower()))


def align(pairs):
    """For every target word, the place of the source word that it most probably translates: one (T,) for each pair.

    By IBM's model 1 (Brown et al. 1993, https://aclanthology.org/J93-2003), fitted by expectation-maximisation, with a
    preference for words at similar places (Dyer et al. 2013, https://aclanthology.org/N13-1073).
    """
    entries, numbers = {}, {}  # The numbers of (source word, target word) that share a sentence, and of source words.
    tables = [
        np.array([[entries.setdefault((word, other), len(entries)) for other in target] for word in source])
        for source, target in pairs
    ]  # (S, T) each
    sources = np.array([numbers.setdefault(word, len(numbers)) for word, _ in entries])
    probability = np.ones(len(entries))  # Of the target word, given the source word.
    nearness = [np.exp(-4 * np.abs(np.subtract.outer(*(np.arange(size) / size for size in t.shape)))) for t in tables]
    for _ in range(5):
        counts = np.zeros(len(entries))
        for table, near in zip(tables, nearness):
            share = probability[table] * near
            np.add.at(counts, table, share / share.sum(axis=0))
        probability = counts / np.bincount(sources, counts)[sources]
    return [(probability[table] * near).argmax(axis=0) for table, near in zip(tables, nearness)]


def phrase_table(pairs):
    """How often source phrases became which target phrases, () if they were left out: {source: Counter of targets}.

    A phrase is a tuple of adjacent words. It is counted where the words aligned to it are adjacent too.
    """
    table = collections.defaultdict(collections.Counter)
    for (source, target), places in zip(pairs, align(pairs)):
        places = places.tolist()
        for begin in range(len(source)):
            for end in range(begin + 1, min(begin + PHRASE_LENGTH, len(source)) + 1):
                found = [index for index, place in enumerate(places) if begin <= place < end]
                if not found or found[-1] - found[0] + 1 == len(found):
                    table[source[begin:end]][tuple(target[index] for index in found)] += 1
    return table


def trigram_model(texts):
    """Returns a function: log P(word | the two words before it), interpolated from trigrams, pairs and single words."""
    counts, contexts = collections.Counter(), collections.Counter()
    for words in texts:
        padded = ("<s>", "<s>", *words, "</s>")
        for end in range(2, len(padded)):
            for begin in (end - 2, end - 1, end):
                counts[padded[begin : end + 1]] += 1
                contexts[padded[begin:end]] += 1

    def log_probability(before, word):
        context = (before, before[1:], ())
        seen = [counts[(*each, word)] / max(1, contexts[each]) for each in context]
        return math.log(0.6 * seen[0] + 0.35 * seen[1] + 0.05 * seen[2] + 1e-8)

    return log_probability


def search(source, table, language_model, fluency, word_bonus):
    """Translates the words of a text phrase by phrase, from left to right, by beam search; returns a list of words."""
    # By how many source words are translated: the best translation for each pair of last words, {pair: (score, words)}.
    beams = [{("<s>", "<s>"): (0.0, [])}, *({} for _ in source)]
    for begin, beam in enumerate(beams[:-1]):
        for before, (score, written) in heapq.nlargest(BEAM_SIZE, beam.items(), key=lambda item: item[1][0]):
            for end in range(begin + 1, min(begin + PHRASE_LENGTH, len(source)) + 1):
                phrase = source[begin:end]
                found = table.get(phrase) or collections.Counter([phrase] if len(phrase) == 1 else [])
                for target, count in found.most_common(BEAM_SIZE):
                    # One is added so that what occurred once is no certainty; every phrase costs, so long ones win.
                    total, last = score + math.log(count / (found.total() + 1)) - 0.5, before
                    for word in target:
                        total += fluency * language_model(last, word) + word_bonus
                        last = (last[1], word)
                    if end == len(source):
                        total += fluency * language_model(last, "</s>")
                    if last not in beams[end] or total > beams[end][last][0]:
                        beams[end][last] = total, [*written, *target]
    return max(beams[-1].values())[1]
