"""A bidirectional LSTM over words, with another over their characters, tags every word with its part of speech.

Result    accuracy 0.9505 ± 0.0006 over 3 seeds, 9.5 minutes a run (7.2 of CPU) on 1 core
Baseline  each word's commonest tag in train; a word unknown there gets the commonest tag of words seen once
Published 0.8832, two bidirectional LSTM layers over GloVe vectors, on the treebank as torchtext has it, mean over
          batches: https://github.com/bentrevett/pytorch-pos-tagging, "1 - BiLSTM for PoS Tagging", version b535d45
Paper     Plank, Søgaard, Goldberg: Multilingual Part-of-Speech Tagging with Bidirectional Long Short-Term Memory Models
          and Auxiliary Loss, 2016, https://arxiv.org/abs/1604.05529. Here nothing is pretrained, no second loss tells
          how rare a word is, and words are dropped in training so that spelling and context must suffice.
Answers   How far does a word alone determine its tag? What does spelling add for words that training never showed? What
          does reading in both directions add? Which parts of speech are mistaken for each other?

    python -m recipes.recurrent.tagging
    python -m recipes.recurrent.tagging --set inputs=characters units=64
"""

import collections
import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import bucket
from common.plots import MUTED, new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "the commonest tag of each word", "metric": "commonest_accuracy"},
    "published": {"value": 0.8832, "source": "bentrevett/pytorch-pos-tagging, BiLSTM with GloVe vectors"},
    "data": ["universal_dependencies/en_ewt"],
}
TINY = {"examples": 70, "epochs": 2, "units": 16, "character_units": 16, "vocabulary_size": 1_000}
VARIANTS = {
    "words alone": {"inputs": "words"},
    "characters alone": {"inputs": "characters"},
    "read forwards only": {"bidirectional": False},
}
SPLITS = {"train": "train", "validation": "dev", "test": "test"}

# In the order of their numbers in TFDS.
TAGS = [
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM",
    "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X",
]  # fmt: skip
UNKNOWN = 1  # A word, or a character, outside the vocabulary; 0 is padding.
CHARACTERS = 128  # Room for all those in train.
BUCKETS = [5, 9, 13, 17, 21, 26, 34]  # The length in words at which a bucket begins; each has about an eighth of train.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 12_543, default=12_543)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=10)
    hp.Choice("batch_size", [16, 32, 64, 128], default=32)
    hp.Choice("inputs", ["both", "words", "characters"], default="both")
    hp.Boolean("bidirectional", default=True)
    hp.Int("layers", 1, 3, default=1)
    hp.Int("units", 16, 512, step=16, default=128)  # Per direction, of the LSTM over words.
    hp.Int("character_units", 16, 256, step=16, default=64)  # Per direction, of the LSTM over characters.
    hp.Choice("word_size", [32, 64, 128, 256], default=128)  # Of a word's embedding.
    hp.Float("embedding_scale", 0.01, 1.0, sampling="log", default=0.1)  # Of the words' embeddings at the start.
    hp.Choice("character_size", [16, 32, 64], default=32)  # Of a character's embedding.
    hp.Int("vocabulary_size", 1_000, 17_000, step=1_000, default=9_000)  # The words that occur twice or more in train.
    hp.Int("word_length", 8, 40, default=16)  # Characters read of a word; fewer than one word in a hundred has more.
    hp.Float("word_dropout", 0.0, 0.7, default=0.2)  # Share of words that a training step sees as unknown.
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # Before each LSTM over words and before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=4e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Two LSTMs, over the characters of a word and over the words of a sentence: logits (B, T, tags)."""
    rows = keras.Input((None,), dtype="int32", name="rows")  # (B, T)
    numbers = keras.Input((), dtype="int32", name="numbers")  # (W,)
    spellings = keras.Input((hp["word_length"],), dtype="int32", name="spellings")  # (W, C)
    mask = ops.not_equal(rows, 0)  # (B, T), True = a word
    word_vectors = []
    if hp["inputs"] != "characters":
        words = ops.take(numbers, rows, axis=0)  # (B, T)
        # Dropout turns some ones into zeros: there the word is replaced by <unknown>, which so learns its vector.
        kept = layers.Dropout(hp["word_dropout"])(ops.ones_like(words, dtype="float32"))
        words = ops.where(ops.greater(kept, 0), words, UNKNOWN)
        embedding = keras.initializers.RandomNormal(stddev=hp["embedding_scale"])
        word_vectors.append(layers.Embedding(hp["vocabulary_size"], hp["word_size"], embedding, name="words")(words))
    if hp["inputs"] != "words":
        embedding = keras.initializers.RandomNormal(stddev=1.0)
        characters = layers.Embedding(CHARACTERS, hp["character_size"], embedding, name="characters")(spellings)
        speller = layers.Bidirectional(layers.LSTM(hp["character_units"]), name="speller")
        spelled = speller(characters, mask=ops.not_equal(spellings, 0))  # (W, 2 character_units)
        word_vectors.append(ops.take(spelled, rows, axis=0))  # (B, T, 2 character_units)
    hidden_states = ops.concatenate(word_vectors, axis=-1)
    for _ in range(hp["layers"]):
        reader = layers.LSTM(hp["units"], return_sequences=True)
        if hp["bidirectional"]:
            reader = layers.Bidirectional(reader)
        hidden_states = reader(layers.Dropout(hp["dropout"])(hidden_states), mask=mask)  # (B, T, units or twice that)
    logits = layers.Dense(len(TAGS), name="logits")(layers.Dropout(hp["dropout"])(hidden_states))
    model = keras.Model([rows, numbers, spellings], logits, name="tagging")
    model.compile(
        keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        steps_per_execution=16,
    )
    return model


@functools.cache
def read(split, examples):
    """The split's sentences, str, and their tags, indices of TAGS, both ragged (N, words of each).

    A contraction is listed both as written and in its parts ("don't", "do", "n't"); only the parts have tags.
    """
    dataset = tfds.load("universal_dependencies/en_ewt", split=SPLITS[split]).take(examples)
    sentences = dataset.ragged_batch(examples).get_single_element()
    has_tag = sentences["upos"] < len(TAGS)
    words, tags = (tf.ragged.boolean_mask(sentences[name], has_tag) for name in ("tokens", "upos"))
    return words, tf.cast(tags, tf.int32)


@functools.cache
def vocabularies(examples, size):
    """The commonest words, in lower case, and the characters of train, lists of str: the first has the number 2."""
    words = read("train", examples)[0].values  # Of all sentences in one row.
    entries = (tf.strings.lower(words, "utf-8"), size), (tf.strings.unicode_split(words, "UTF-8").values, CHARACTERS)
    commonest = [collections.Counter(each.numpy()).most_common(room - 2) for each, room in entries]
    return [[entry.decode() for entry, _ in each] for each in commonest]


def encoder(words, characters, word_length):
    """Returns the function that turns sentences (B, T), str, "" = padding, into the model's inputs.

    It spells every distinct word once, so that the LSTM over characters reads no word twice.
    """
    word_numbers = layers.StringLookup(vocabulary=words, mask_token="")  # 0 for padding, UNKNOWN for other words.
    character_numbers = layers.StringLookup(vocabulary=characters, mask_token="")

    def encode(sentences):
        # The empty word in front reserves row 0 for padding.
        distinct, rows = tf.unique(tf.concat([[""], tf.reshape(sentences, [-1])], axis=0))
        numbers = word_numbers(tf.strings.lower(distinct, "utf-8"))
        spellings = character_numbers(tf.strings.unicode_split(distinct, "UTF-8")[:, :word_length])
        inputs = tf.reshape(rows[1:], tf.shape(sentences)), numbers, spellings.to_tensor(shape=(None, word_length))
        return tuple(tf.cast(tensor, tf.int32) for tensor in inputs)

    return encode


def load_data(hp, split):
    """Batches of (rows (B, T), numbers (W,), spellings (W, C)), tags (B, T), weight (B, T): 1 on real words.

    The W distinct words are those of the batch, row 0 is padding. Sentences of similar length share a batch.
    """
    words, tags = read(split, hp["examples"])
    encode = encoder(*vocabularies(hp["examples"], hp["vocabulary_size"]), hp["word_length"])
    batches = bucket((words, tags), words.row_lengths(), BUCKETS, hp["batch_size"], split == "train")
    batches = batches.map(lambda words, tags: (encode(words), tags, tf.cast(words != "", tf.float32)))
    return batches.prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """The share of test words tagged correctly: of all, of those not in train, of those with several tags there."""
    words, right, given = tag_split(model, hp, "test")
    known = collections.defaultdict(collections.Counter)  # {word of train: {tag: count}}
    sentences, tags = read("train", hp["examples"])
    for word, number in zip(sentences.values.numpy(), tags.values.numpy()):
        known[word][TAGS[number]] += 1
    seen_once = collections.Counter(name for counts in known.values() if counts.total() == 1 for name in counts)
    fallback = seen_once.most_common(1)[0][0]
    commonest = [known[word].most_common(1)[0][0] if word in known else fallback for word in words]
    unknown = np.array([word not in known for word in words])
    ambiguous = np.array([word in known and len(known[word]) > 1 for word in words])
    results = {"share_unknown": unknown.mean(), "share_ambiguous": ambiguous.mean()}
    for name, answers in (("", given), ("commonest_", commonest)):
        is_right = np.array(answers) == right
        results[f"{name}accuracy"] = is_right.mean()
        results[f"{name}accuracy_unknown"] = is_right[unknown].mean()
        results[f"{name}accuracy_ambiguous"] = is_right[ambiguous].mean()
    return results


def tag_split(model, hp, split):
    """All words of a split, their correct tags, and those that the model assigns: three lists of the same length."""
    sentences, tags = read(split, hp["examples"])
    answers = tag(model, sentences.to_list(), *vocabularies(hp["examples"], hp["vocabulary_size"]))
    given = [name for answer in answers for name, _ in answer]
    return sentences.values.numpy(), np.array(TAGS)[tags.values], given


def tag(model, sentences, words, characters):
    """Names the part of speech of every word: for each sentence a list of (tag, the model's probability of it).

    sentences: lists of words; a contraction is two ("do", "n't"), a punctuation mark one.
    words, characters: the lines of words.txt and characters.txt.
    """
    encode = encoder(words, characters, model.inputs[2].shape[1])
    tagged = []
    # A single batch would be padded to the longest sentence of all.
    for batch in tf.data.Dataset.from_tensor_slices(tf.ragged.constant(sentences)).batch(100):
        probabilities = ops.convert_to_numpy(ops.softmax(model(encode(batch.to_tensor()), training=False)))
        for row, length in zip(probabilities, batch.row_lengths()):
            tagged.append([(TAGS[word.argmax()], float(word.max())) for word in row[:length]])
    return tagged


def assets(hp):
    """The vocabularies, one entry per line, as `tag` expects them."""
    words, characters = vocabularies(hp["examples"], hp["vocabulary_size"])
    return {"words.txt": "\n".join(words), "characters.txt": "\n".join(characters)}


def show(model, hp):
    """A few sentences with their tags, and which parts of speech are most often mistaken for others."""
    texts = [
        "Time flies like an arrow ; fruit flies like a banana .",
        "I googled it , but the chatbot had hallucinated every footnote .",
        "And the slithy toves did gyre and gimble in the wabe .",
    ]
    sentences = [text.split() for text in texts]
    tagged = tag(model, sentences, *vocabularies(hp["examples"], hp["vocabulary_size"]))
    samples = [" ".join(f"{word}/{name}" for word, (name, _) in zip(*each)) for each in zip(sentences, tagged)]

    words, right, given = tag_split(model, hp, "validation")
    mistakes = collections.defaultdict(collections.Counter)  # {"right tag mistaken for given tag": {word: count}}
    for word, one, other in zip(words, right, given):
        if one != other:
            mistakes[f"{one} mistaken for {other}"][word.decode()] += 1
    kinds = sorted(mistakes, key=lambda kind: mistakes[kind].total())[-12:]
    counts = [mistakes[kind].total() for kind in kinds]
    picture, ax = new(9, 4.5)
    bars = plain(ax).barh(kinds, counts, color=MUTED)
    ax.bar_label(bars, [", ".join(word for word, _ in mistakes[kind].most_common(4)) for kind in kinds], padding=4)
    ax.set(xlabel=f"times among {len(words):,} validation words", xlim=(0, 2 * counts[-1]))
    return {"mistakes": picture, "sentences": "\n".join(samples)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
