"""A small GPT, a causal Transformer, writes like Shakespeare, character by character; n-grams predict it better.

Result    test nats 1.6201 with one seed, 34.4 minutes a run (33.5 CPU minutes) on 1 core
Baseline  7-grams with modified Kneser-Ney smoothing, which keep updating their counts on the text that they predict
Published 1.4697 nats per character, nanoGPT's best checkpoint (https://github.com/karpathy/nanoGPT, GPU setting) on
          random crops of 256 characters of validation and test; here, an eighth as many weights, on consecutive crops
Paper     Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019,
          https://openai.com/index/better-language-models. Blocks and positions are the paper's; a convolution over the
          embeddings and Muon, whose updates of matrices are nearly orthogonal, are not. Network and text are tiny.
Answers   What do a convolution and Muon add? not measured yet
          How good is a smaller one after 300 updates? One the size of nanoGPT's CPU setting, 128 units and crops of 64
          characters, has 1.743 nats on such crops of validation and test after 222 CPU seconds in all.
          How far back does it look? With 2 or 3 characters before it in its crop instead of 192 or more, the cost of a
          character changes by +0.46 nats, with 4 to 7 by +0.00, with 8 to 15 by -0.03 and with 32 to 63 by -0.03.
          Can it copy a pattern that only the prompt shows? Random letters cost 7.53 nats each when read first and 7.60
          when repeated; the n-grams, which update their counts as they read, 4.81 and 0.77.
          Must the n-grams adapt to the text? Without adapting, they have 1.561 nats on test instead of 1.418.
          How far is training from the machine's limit? It makes 19 billion multiply-adds per CPU second, 52% of what a
          matrix product reaches.

    python -m recipes.transformers.gpt
    python -m recipes.transformers.gpt --try "To be, or not to be"
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import shuffle
from common.decoding import read_on, sample
from common.metrics import Perplexity, training_speed
from common.ngrams import ngram_surprisal
from common.optimizers import muon_or_adamw
from common.plots import TRAINING, VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "test_nats", "better": "lower"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"name": "adaptive 7-gram model", "metric": "ngram_test_nats"},
    "published": {"metric": "crops_nats", "value": 1.4697, "source": "nanoGPT's GPU setting, crops of 256 characters"},
    "data": ["tiny_shakespeare"],
    "tolerance": 0.015,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 1010, "epochs": 2, "batch_size": 3, "context": 16, "layers": 1, "units": 8, "optimizer": "adamw"}
VARIANTS = {
    "without convolution": {"convolution": 0},
    "AdamW": {"optimizer": "adamw"},
    "plain": {"convolution": 0, "optimizer": "adamw"},
    # 300 updates of a network as large as that of nanoGPT's CPU setting.
    "fast": {"epochs": 1, "share": 0.46, "batch_size": 24, "context": 64, "units": 128, "dropout": 0.0},
}
PINNED = ("context", "share")  # Both change a trial's cost, and the context also the length of the scored crops.
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

# A character's id is its index; any other character is read as a space.
VOCABULARY = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
START = "\n"  # Stands before every text, so that its first character can be predicted.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 1_003_854, default=1_003_854)  # Characters read from each split, at most.
    hp.Int("epochs", 1, 40, default=7)
    hp.Float("share", 0.01, 1.0, default=1.0)  # The share of the training windows that an epoch reads.
    hp.Int("batch_size", 1, 256, default=32)
    hp.Int("context", 8, 512, default=256)  # Characters that the network can attend to, as many as nanoGPT's.
    hp.Int("layers", 1, 12, default=4)
    hp.Int("heads", 1, 12, default=2)
    hp.Int("units", 8, 512, default=160)
    hp.Int("convolution", 0, 8, default=4)  # Characters that the convolution reads; 0 leaves it out.
    hp.Float("dropout", 0.0, 0.5, default=0.1)
    hp.Choice("optimizer", ["muon", "adamw"], default="muon")
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=2e-2)  # The peak, reached after 10% of the updates.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=0.1)  # As in nanoGPT.
    return hp


def build_model(hp):
    """GPT-2 with a convolution over its embeddings: characters (B, T), T up to `context`, to logits (B, T, V)."""
    units, unit_scale = hp["units"], keras.initializers.RandomNormal(stddev=1.0)  # The scale of a block's output.
    characters = keras.Input((None,), dtype="int32", name="shifted_characters")  # One place before the targets.
    places = ops.cumsum(ops.ones_like(characters), axis=1) - 1  # 0, 1, 2 ...
    hidden = layers.Embedding(len(VOCABULARY), units, unit_scale, name="embedding")(characters)
    hidden = hidden + layers.Embedding(hp["context"], units, name="places")(places)  # (B, T, units)
    if hp["convolution"]:
        hidden = hidden + layers.Conv1D(units, hp["convolution"], padding="causal")(hidden)
    hidden = layers.Dropout(hp["dropout"])(hidden)
    for _ in range(hp["layers"]):
        attention = layers.MultiHeadAttention(hp["heads"], units // hp["heads"])
        normal = layers.LayerNormalization()(hidden)
        hidden = hidden + layers.Dropout(hp["dropout"])(attention(normal, normal, use_causal_mask=True))
        wide = ops.gelu(layers.Dense(4 * units)(layers.LayerNormalization()(hidden)))
        hidden = hidden + layers.Dropout(hp["dropout"])(layers.Dense(units)(wide))
    logits = layers.Dense(len(VOCABULARY), name="logits")(layers.LayerNormalization()(hidden))
    model = keras.Model(characters, logits, name="gpt")

    settings = hp["optimizer"], model, hp["learning_rate"], hp["weight_decay"]
    model.compile(
        muon_or_adamw(*settings, beta_2=0.99, exclude_layers=["logits"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[Perplexity()],
        steps_per_execution=16,
    )
    return model


def load_text(hp, split):
    """The split's first `examples` characters."""
    text = tfds.load("tiny_shakespeare", split=SPLITS[split]).get_single_element()["text"]
    return text.numpy().decode()[: hp["examples"]]


def encode(text, vocabulary=VOCABULARY):
    """The ids of the characters (T,); one that is not in the vocabulary is read as a space."""
    ids = {character: index for index, character in enumerate(vocabulary)}
    return tf.constant([ids.get(character, ids[" "]) for character in text])


def load_data(hp, split):
    """Batches of (characters, next characters, weights), each (B, context), windows that cover the text once.

    Weights are 0 on padding. In every epoch, the first window of the training text begins at another random place.
    """
    text, context = load_text(hp, split), hp["context"]
    padding = -len(text) % context

    def windows(ids):
        rows = [tf.pad(row, [[0, padding]]) for row in (ids[:-1], ids[1:], tf.ones(len(text)))]
        return tf.data.Dataset.from_tensor_slices(tuple(tf.reshape(row, (-1, context)) for row in rows))

    if split != "train":
        return windows(encode(START + text)).batch(hp["batch_size"])
    ids = encode(text)
    # To shuffle all million places, only to take one of them, would cost a second in every epoch.
    places = shuffle(tf.data.Dataset.range(1000)).take(1).map(lambda number: number * len(text) // 1000)
    cut = places.flat_map(lambda place: windows(tf.concat([ids[place:], ids[: place + 1]], axis=0)))
    count = (len(text) + padding) // context
    cut = shuffle(cut.apply(tf.data.experimental.assert_cardinality(count))).take(round(hp["share"] * count))
    return cut.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


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
    """Nats per character of test, validation and both, with the baseline's; of repeated patterns; speed of training."""
    nats = {n: [held_out(model, hp, split, hp["context"] // n) for split in ("validation", "test")] for n in (1, 4)}
    test, patterns = nats[4][1], copies(hp)
    first, second = np.split(surprisal(model, patterns), 2, axis=1)
    texts = [load_text(hp, "test"), *("".join(VOCABULARY[index] for index in row[1:]) for row in patterns)]
    ngrams, *of_patterns = ngram_surprisal(load_text(hp, "train"), texts, len(VOCABULARY))
    ngram_first, ngram_second = np.split(np.array(of_patterns), 2, axis=1)
    speed, limit = training_speed(model, load_data(hp, "train").take(16))  # Its learning rate is 0: no weight moves.
    return {
        "test_nats": np.mean(test),
        "both_nats": np.mean(np.concatenate(nats[4])),
        "crops_nats": np.mean(np.concatenate(nats[1])),
        **{f"extra-nats-{n}": value for n, value in extra_nats(hp, test, nats[1][1]).items()},
        "first_nats": np.mean(first),
        "second_nats": np.mean(second),
        "ngram_first_nats": np.mean(ngram_first),
        "ngram_second_nats": np.mean(ngram_second),
        "ngram_test_nats": np.mean(ngrams),
        "fixed_ngram_test_nats": np.mean(ngram_surprisal(load_text(hp, "train"), texts[:1], len(VOCABULARY), False)),
        "speed-multiply-adds": speed,
        "speed-share": speed / limit,
    }


def held_out(model, hp, split, stride):
    """The nats of a split's characters (N,), read in windows, which are crops if they begin one context apart.

    If they begin every `stride` characters, each character is predicted from `context - stride` others at least.
    """
    ids = encode(START + load_text(hp, split))
    nats = surprisal(model, tf.signal.frame(ids, hp["context"] + 1, stride, pad_end=True))
    # The first window gives all of its characters, every other its last `stride`.
    return np.concatenate([nats[0, :-stride], nats[:, -stride:].ravel()])[: len(ids) - 1]


def surprisal(model, rows):
    """The nats of every character of rows (N, T + 1) but the first, given those before it in its row: (N, T)."""
    logits = model.predict(rows[:, :-1], batch_size=64, verbose=0)
    return np.array(keras.losses.sparse_categorical_crossentropy(rows[:, 1:], logits, from_logits=True))


def extra_nats(hp, nats, crops):
    """How much more a character costs after n to 2n - 1 others of its crop than after three quarters of the context."""
    context = hp["context"]
    extra = (crops - nats)[: len(nats) // context * context].reshape(-1, context)[1:]
    return {
        n: np.mean(extra[:, n - 1 : min(2 * n, 3 * context // 4 + 1) - 1])
        for n in 2 ** np.arange(int(np.log2(context)))
    }


def copies(hp):
    """A hundred texts, ids (N, context + 1): a start, a pattern of random letters, and the same pattern again."""
    letters = np.random.default_rng(0).integers(VOCABULARY.index("a"), len(VOCABULARY), (100, hp["context"] // 2))
    return np.insert(np.tile(letters, 2), 0, VOCABULARY.index(START), axis=1)


def generate(model, vocabulary, prompts, length, **options):
    """Continues every prompt by `length` characters, with the options of `common.decoding.sample`.

    Half a context at a time is read and half written, since the network knows no places beyond its context.
    """
    half = model.get_layer("places").input_dim // 2
    read = read_on(model, 2 * half)

    def step(tokens, states):
        logits, states = read(tokens[:, None], states)
        return tf.nn.log_softmax(logits[:, 0]), states

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((), tf.int32)])
    def write(ids, seed):
        _, states = read(ids[:, :-1])
        return sample(step, ids[:, -1], states, half, seed=seed, **options)

    texts = []
    for prompt in prompts:
        ids = encode(START + prompt, vocabulary)[None]
        for seed in range(-(-length // half)):
            ids = tf.concat([ids, write(ids[:, -half:], seed)], axis=1)
        texts.append("".join(vocabulary[index] for index in ids[0, len(START + prompt) :][:length]))
    return texts


def predict(model, assets, inputs):
    """Continues every prompt of `inputs` by 300 characters, sampled at temperature 0.7; every call gives the same ones.

    A character that is not in the vocabulary is read as a space; an empty prompt gives the beginning of a text.

        model = keras.models.load_model("model.keras")
        assets = {"vocabulary.txt": open("vocabulary.txt").read()}
        predict(model, assets, ["To be, or not to be"])
    """
    return generate(model, assets["vocabulary.txt"], inputs, 300, temperature=0.7)


def assets(hp):
    """The characters in the order of their ids."""
    return {"vocabulary.txt": VOCABULARY}


def show(model, hp):
    """What a pattern costs when it is read a second time, and what a short context costs; samples of text."""
    texts = []
    for name, value in (("temperature", 0.5), ("temperature", 1.0), ("top_k", 5), ("top_p", 0.9)):
        texts.append(f"--- {name} {value}\nROMEO:" + generate(model, VOCABULARY, ["ROMEO:"], 400, **{name: value})[0])
    picture, (copying, short) = new(9, 7, rows=2)
    halves = np.split(surprisal(model, copies(hp)).mean(axis=0), 2)
    for nats, colour, name in zip(halves, (TRAINING, VALIDATION), ("first time", "second time")):
        plain(copying).plot(range(1, len(nats) + 1), nats, color=colour, label=name)
    copying.set(title="Random letters, read twice", xlabel="place in pattern", ylabel="nats per letter", ylim=(0, None))
    copying.legend(frameon=False)
    extra = extra_nats(hp, *(held_out(model, hp, "validation", hp["context"] // n) for n in (4, 1)))
    plain(short).bar([f"from {n}" for n in extra], extra.values(), color=VALIDATION)
    short.set(title="What a short context costs", xlabel="characters of context", ylabel="extra nats per character")
    return {"samples": "\n\n".join(texts), "context": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
