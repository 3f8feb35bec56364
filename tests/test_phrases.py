"""Phrase-based translation on a toy language in which the adjective follows its noun."""

import collections
import itertools
import math
import random

import pytest

from common import phrases

NOUNS = {"hund": "dog", "mann": "man", "kind": "child", "pferd": "horse"}
ADJECTIVES = {"rot": "red", "alt": "old", "klein": "small"}
VERBS = {"läuft": "runs", "schläft": "sleeps", "singt": "sings"}
KNOWN = [" ".join(("ein", *words)) + "." for words in itertools.product(NOUNS, ADJECTIVES, VERBS)]


def right(text):
    _, noun, adjective, verb = text.removesuffix(".").split()
    return f"a {ADJECTIVES[adjective]} {NOUNS[noun]} {VERBS[verb]}."


def test_unseen_sentences_of_known_phrases_are_translated_and_their_words_reordered():
    for left_out in KNOWN[::5]:
        known = [text for text in KNOWN if text != left_out]
        assert phrases.translate_by_phrases(known, map(right, known), [left_out.upper()]) == [right(left_out)]


def test_unknown_words_stay_and_no_word_is_no_text():
    known = KNOWN + [""]
    translations = [*map(right, KNOWN), "a dog"]
    found = phrases.translate_by_phrases(known, translations, ["Ein Zebra läuft.", ""])
    assert found == ["a zebra runs.", ""]


def test_alignments_follow_the_words_and_phrases_are_counted_where_they_stay_together():
    pairs = [(phrases.words_of(text), phrases.words_of(right(text))) for text in KNOWN]
    for places in phrases.align(pairs):
        assert places.tolist() == [0, 2, 1, 3, 4]
    table = phrases.phrase_table(pairs)
    assert table["hund", "rot"] == {("red", "dog"): 3}
    assert ("ein", "hund") not in table  # "a ... dog" is interrupted.
    assert table[("ein",)] == {("a",): len(KNOWN)}


def test_alignments_are_those_of_ibm_s_model_1_word_by_word():
    generator = random.Random(0)
    pairs = [[generator.choices(words, k=generator.randint(1, 6)) for words in ("abcde", "vwxyz")] for _ in range(30)]
    probability = collections.defaultdict(lambda: 1.0)  # Of (source word, target word).

    def shares(source, target, index):
        """How probably each source word became the target word at `index`."""
        near = [math.exp(-4 * abs(place / len(source) - index / len(target))) for place in range(len(source))]
        found = [probability[word, target[index]] * weight for word, weight in zip(source, near)]
        return [each / sum(found) for each in found]

    for _ in range(5):
        counts, totals = collections.Counter(), collections.Counter()
        for source, target in pairs:
            for index, other in enumerate(target):
                for word, share in zip(source, shares(source, target, index)):
                    counts[word, other] += share
                    totals[word] += share
        probability = {pair: count / totals[pair[0]] for pair, count in counts.items()}
    for (source, target), places in zip(pairs, phrases.align(pairs)):
        expected = [shares(source, target, index) for index in range(len(target))]
        assert places.tolist() == [each.index(max(each)) for each in expected]


def test_the_language_model_is_a_distribution_and_prefers_what_it_saw():
    texts = [phrases.words_of(right(text)) for text in KNOWN]
    model = phrases.trigram_model(texts)
    words = {*itertools.chain(*texts), "</s>"}
    for before in (("<s>", "<s>"), ("a", "red"), ("red", "dog")):
        assert sum(math.exp(model(before, word)) for word in words) == pytest.approx(1, abs=1e-4)
    assert model(("a", "red"), "dog") > model(("a", "red"), "runs") > model(("a", "red"), "unseen")


def test_of_a_phrase_s_translations_a_fluent_one_may_win_over_a_more_frequent_one():
    table = {
        ("park",): collections.Counter({("park",): 1}),
        ("bank",): collections.Counter({("bank",): 3, ("bench",): 2}),
    }
    model = phrases.trigram_model([("park", "bench")] * 9 + [("bank",)])
    assert phrases.search(("park", "bank"), table, model, fluency=0.4, word_bonus=1.8) == ["park", "bench"]
    assert phrases.search(("park", "bank"), table, model, fluency=0.0, word_bonus=1.8) == ["park", "bank"]
