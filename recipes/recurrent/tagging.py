"""A bidirectional LSTM over words, spelled by another one over characters, names the part of speech of every word.

Result    accuracy 0.9505 ± 0.0006 over 3 seeds, 9.5 minutes a run (7.2 of CPU) on 1 core
Baseline  the commonest tag of each word in train; a word unknown there gets the commonest tag of words seen once
Anchor    0.8832, two bidirectional LSTM layers over GloVe vectors, on the treebank as torchtext has it, mean over
          batches: https://github.com/bentrevett/pytorch-pos-tagging, "1 - BiLSTM for PoS Tagging", version b535d45
Paper     Plank, Søgaard, Goldberg: Multilingual Part-of-Speech Tagging with Bidirectional Long Short-Term Memory Models
          and Auxiliary Loss, 2016, https://arxiv.org/abs/1604.05529. Here nothing is pretrained, no second loss counts
          how rare a word is, and words are taken away in training so that spelling and context must do.
Answers   How far does a word alone tell its tag? What does spelling add for words that training never showed? What is
          it worth to read a sentence in both directions? Which parts of speech are taken for each other?

    python -m recipes.recurrent.tagging
    python -m recipes.recurrent.tagging --set inputs=characters units=64
"""

import collections
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import colormaps

from common import data, plots, runner, training

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "the commonest tag of each word", "metric": "commonest_accuracy"},
    "anchor": {"value": 0.8832, "source": "bentrevett/pytorch-pos-tagging, BiLSTM with GloVe vectors"},
    "data": ["universal_dependencies/en_ewt"],
}
TINY = {"examples": 64, "epochs": 2, "units": 16}
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
CHARACTERS = 128  # Room for all of train's.
BUCKETS = [5, 9, 13, 17, 21, 26, 34]  # Upper ends of a sentence's length in words: about an eighth of train in each.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 12_543, default=12_543)  # Sentences read from each split at most.
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
    hp.Int("vocabulary_size", 1_000, 17_000, step=1_000, default=9_000)  # The words that train shows at least twice.
    hp.Int("word_length", 8, 40, default=16)  # Characters read of a word; fewer than one word in a hundred has more.
    hp.Float("word_dropout", 0.0, 0.7, default=0.2)  # Share of words that a training step sees as unknown.
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # Before each LSTM over words and before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=4e-3)  # The peak, after a tenth of the steps.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-2)
    return hp


@functools.cache
def read(split, examples):
    """The split's sentences, lists of str, and their tags, lists of indices of TAGS.

    A contraction is listed as it is written and in its parts ("don't", "do", "n't"); only the parts have tags.
    """
    sentences, tags = [], []
    for sentence in data.load("universal_dependencies/en_ewt", split, examples).as_numpy_iterator():
        tagged = [(word.decode(), tag) for word, tag in zip(sentence["tokens"], sentence["upos"]) if tag < len(TAGS)]
        words, numbers = zip(*tagged)
        sentences.append(list(words))
        tags.append(list(numbers))
    return sentences, tags


def vocabularies(hp):
    """The commonest words, in lower case, and the characters of train, lists of str: the first has the number 2."""
    sentences, _ = read(SPLITS["train"], hp["examples"])
    words = collections.Counter(word.lower() for word in itertools.chain(*sentences))
    characters = collections.Counter(itertools.chain(*itertools.chain(*sentences)))
    commonest = words.most_common(hp["vocabulary_size"] - 2), characters.most_common(CHARACTERS - 2)
    return tuple([entry for entry, _ in entries] for entries in commonest)


def encode(sentences, words, characters, word_length):
    """Spells every distinct word once, so that the LSTM over characters reads no word twice.

    words, characters: the vocabularies, lists of str.

    Returns:
        rows, ragged (N, words of each): where each word stands in the other two; row 0 is padding.
        numbers (W,): of the distinct words, UNKNOWN = not in the vocabulary.
        spellings (W, word_length): their characters, 0 = padding on the right.
    """
    word_numbers = {word: number for number, word in enumerate(words, UNKNOWN + 1)}
    character_numbers = {character: number for number, character in enumerate(characters, UNKNOWN + 1)}
    distinct = {word: row for row, word in enumerate(dict.fromkeys(itertools.chain(*sentences)), 1)}
    rows = tf.ragged.constant([[distinct[word] for word in sentence] for sentence in sentences], dtype=tf.int32)
    numbers = [0, *(word_numbers.get(word.lower(), UNKNOWN) for word in distinct)]
    spellings = np.zeros((len(distinct) + 1, word_length), "int32")
    for word, row in distinct.items():
        spelling = [character_numbers.get(character, UNKNOWN) for character in word[:word_length]]
        spellings[row, : len(spelling)] = spelling
    return rows, np.array(numbers, "int32"), spellings


def load_data(hp, split):
    """Batches of (rows (B, T), numbers (W,), spellings (W, C)), tags (B, T), weight (B, T): 1 on real words.

    The W distinct words are those of the batch, row 0 is padding. Sentences of similar length share a batch.
    """
    sentences, tags = read(SPLITS[split], hp["examples"])
    rows, numbers, spellings = encode(sentences, *vocabularies(hp), hp["word_length"])
    examples = tf.data.Dataset.from_tensor_slices((rows, tf.ragged.constant(tags, dtype=tf.int32)))
    examples = examples.map(lambda row, tag: (tf.identity(row), tf.identity(tag))).cache()

    def distinct_words(rows, tags):
        # The zero in front keeps row 0 for padding.
        distinct, places = tf.unique(tf.concat([[0], tf.reshape(rows, [-1])], axis=0))
        inputs = tf.reshape(places[1:], tf.shape(rows)), tf.gather(numbers, distinct), tf.gather(spellings, distinct)
        return inputs, tags, tf.cast(rows != 0, tf.float32)

    batches = data.bucket(examples, rows.row_lengths(), BUCKETS, hp["batch_size"], split == "train")
    return batches.map(distinct_words).prefetch(2)


def build_model(hp):
    """Two LSTMs, over the characters of a word and over the words of a sentence: logits (B, T, tags)."""
    rows = keras.Input((None,), dtype="int32", name="rows")  # (B, T)
    numbers = keras.Input((), dtype="int32", name="numbers")  # (W,)
    spellings = keras.Input((hp["word_length"],), dtype="int32", name="spellings")  # (W, C)
    mask = ops.not_equal(rows, 0)  # (B, T), True = a word
    word_vectors = []
    if hp["inputs"] != "characters":
        words = ops.take(numbers, rows, axis=0)  # (B, T)
        # Dropout makes zeros of some ones: there the word is taken away, so that <unknown> learns what it stands for.
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

    steps = hp["epochs"] * (hp["examples"] // hp["batch_size"] + len(BUCKETS))  # Every bucket ends in a short batch.
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=hp["learning_rate"], warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        steps_per_execution=16,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("tagging", hp["examples"]),
        verbose=0,
        shuffle=False,
    )
    return model


def tag(model, sentences, words, characters):
    """Names the part of speech of every word.

    sentences: lists of words; a contraction is two ("do", "n't"), a punctuation mark one.
    words, characters: the lines of words.txt and characters.txt.

    Returns:
        One list a sentence, of (tag, the probability that the model gives to it).
    """
    rows, numbers, spellings = encode(sentences, words, characters, model.inputs[2].shape[1])
    logits = model([rows.to_tensor().numpy(), numbers, spellings], training=False)
    probabilities = ops.convert_to_numpy(ops.softmax(logits))
    best = zip(probabilities.argmax(axis=-1), probabilities.max(axis=-1))
    return [
        [(TAGS[number], float(chance)) for number, chance, _ in zip(*row, sentence)]
        for row, sentence in zip(best, sentences)
    ]


def tag_split(model, hp, split):
    """The sentences of a split, and per sentence the tags that are right and what `tag` says, lists of each."""
    sentences, tags = read(SPLITS[split], hp["examples"])
    right = [[TAGS[number] for number in numbers] for numbers in tags]
    given = []
    for start in range(0, len(sentences), 100):  # One batch of all would be as long as its longest sentence.
        given += tag(model, sentences[start : start + 100], *vocabularies(hp))
    return sentences, right, given


def tags_in_train(hp):
    """How often train gives each tag to each word, {word: {tag: count}}."""
    counts = collections.defaultdict(collections.Counter)
    sentences, tags = read(SPLITS["train"], hp["examples"])
    for word, number in zip(itertools.chain(*sentences), itertools.chain(*tags)):
        counts[word][TAGS[number]] += 1
    return counts


def evaluate(model, hp):
    """The share of test words tagged rightly: of all, of those unknown to train, of those with several tags there."""
    words, right, given = (list(itertools.chain(*each)) for each in tag_split(model, hp, "test"))
    known = tags_in_train(hp)
    seen_once = collections.Counter(tag for counts in known.values() if counts.total() == 1 for tag in counts)
    fallback = seen_once.most_common(1)[0][0]
    commonest = [known[word].most_common(1)[0][0] if word in known else fallback for word in words]
    unknown = np.array([word not in known for word in words])
    ambiguous = np.array([word in known and len(known[word]) > 1 for word in words])
    results = {"share_unknown": unknown.mean(), "share_ambiguous": ambiguous.mean()}
    for name, answers in (("", [answer for answer, _ in given]), ("commonest_", commonest)):
        is_right = np.array(answers) == np.array(right)
        results[f"{name}accuracy"] = is_right.mean()
        results[f"{name}accuracy_unknown"] = is_right[unknown].mean()
        results[f"{name}accuracy_ambiguous"] = is_right[ambiguous].mean()
    return results


def assets(hp):
    """The vocabularies, one entry a line, as `tag` wants them."""
    return {f"{name}.txt": "\n".join(entries) for name, entries in zip(("words", "characters"), vocabularies(hp))}


def draw_sentences(sentences, given, known):
    """Words in a row, below each its tag on a ground as dark as the tag is sure; words unknown to train are red."""
    picture, axes = plots.new(13, 1.15 * len(sentences), rows=len(sentences), squeeze=False)
    widths = [[max(len(word), 5) + 2 for word in sentence] for sentence in sentences]  # In characters.
    for ax, sentence, answers, width in zip(axes[:, 0], sentences, given, widths):
        centres = np.cumsum(width) - np.array(width) / 2
        for word, (answer, probability), centre in zip(sentence, answers, centres):
            ax.text(centre, 2, word, color="black" if word in known else plots.VALIDATION, ha="center", size=12)
            ground = {"facecolor": colormaps["Blues"](0.5 * probability), "edgecolor": "none", "pad": 2.5}
            ax.text(centre, 1, answer, ha="center", size=8, bbox=ground)
            ax.text(centre, 0.2, f"{probability:.2f}", ha="center", size=7, color="#64748b")
        ax.set(xlim=(0, max(map(sum, widths))), ylim=(0, 3))
        ax.axis("off")
    return picture


def draw_mistakes(mistakes, words):
    """The parts of speech that are most often taken for others, with the words of which that is most often so.

    mistakes: {(right tag, given tag): {word: count}}.
    words: how many words were tagged.
    """
    pairs = sorted(mistakes, key=lambda pair: mistakes[pair].total())[-15:]
    counts = [mistakes[pair].total() for pair in pairs]
    picture, ax = plots.new(10, 5.5)
    bars = plots.plain(ax).barh([f"{right} taken for {given}" for right, given in pairs], counts, color=plots.MUTED)
    ax.bar_label(bars, [", ".join(word for word, _ in mistakes[pair].most_common(5)) for pair in pairs], padding=4)
    ax.set(xlabel=f"times among {words:,} validation words, and the words oftenest concerned", xlim=(0, 2 * counts[-1]))
    return picture


def show(model, hp):
    """Tagged sentences with the model's confidence, and which parts of speech it takes for each other."""
    texts = [
        "Time flies like an arrow ; fruit flies like a banana .",
        "They can fish , and we can the fish that they fish .",
        "I googled it , but the chatbot had hallucinated every footnote .",
        "'T was brillig , and the slithy toves did gyre and gimble in the wabe .",
    ]
    sentences = [text.split() for text in texts]
    picture = draw_sentences(sentences, tag(model, sentences, *vocabularies(hp)), tags_in_train(hp))
    words, right, given = (list(itertools.chain(*each)) for each in tag_split(model, hp, "validation"))
    mistakes = collections.defaultdict(collections.Counter)
    for word, one, (other, _) in zip(words, right, given):
        if one != other:
            mistakes[one, other][word] += 1
    return {"sentences": picture, "mistakes": draw_mistakes(mistakes, len(words))}


if __name__ == "__main__":
    runner.run(__spec__.name)
