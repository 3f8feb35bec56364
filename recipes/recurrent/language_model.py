"""A recurrent network reads tiny_shakespeare character by character and learns to continue it.

Result    test nats 1.493 ± 0.003 over 3 seeds, 20.3 minutes a run (17.8 of CPU) on 1 core
Baseline  an interpolated 5-gram, counted on the same text and scored the same way
Published 1.4697 nats per character on validation and test together: nanoGPT's GPU setting for
          shakespeare_char, scored on random crops (https://github.com/karpathy/nanoGPT)
Paper     Graves, Generating Sequences With Recurrent Neural Networks, 2013, https://arxiv.org/abs/1308.0850;
          here one layer instead of seven, a hundredth of the text, and dropout against overfitting
Answers   What is gained by carrying the state from window to window, in training and in use?
          How far back does the network remember? Which characters surprise it?
          What do temperature and beam search do to the text it writes?

    python -m recipes.recurrent.language_model
    python -m recipes.recurrent.language_model --set cell=lstm --seed 1
"""

import collections

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from common.callbacks import OneCycle
from common.data import shuffle
from common.decoding import beam_search, sample
from common.metrics import Perplexity
from common.plots import VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "test_nats", "better": "lower"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"name": "interpolated 5-gram", "metric": "ngram_test_nats"},
    "published": {"metric": "both_nats", "value": 1.4697, "source": "nanoGPT train_shakespeare_char.py, GPU setting"},
    "data": ["tiny_shakespeare"],
}
TINY = {"examples": 1010, "epochs": 2, "streams": 4, "steps": 20, "units": 16}
VARIANTS = {"stateless": {"stateful": False}}
PINNED = ("stateful",)  # Without it, validation too would start every window from zeros.
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

# A character's id is its index here; any other character is read as a space.
VOCABULARY = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
START = "\n"  # What the first character of a text is predicted from.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 1_003_854, default=1_003_854)  # characters read from each split at most
    hp.Int("epochs", 1, 40, default=8)
    hp.Int("streams", 1, 256, default=32)  # places read in parallel, one per row; 64 would halve the updates
    hp.Int("steps", 10, 400, default=100)  # characters between two updates: how far back a gradient reaches
    hp.Choice("cell", ["gru", "lstm"], default="gru")
    hp.Int("units", 8, 1024, default=640)
    hp.Int("embedding", 8, 512, default=64)  # as wide as one-hot codes of the 65 characters
    hp.Boolean("stateful", default=True)  # False: every window starts from a state of zeros
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # 0.5 with one more epoch is no better on validation
    hp.Float("learning_rate", 1e-4, 2e-2, sampling="log", default=4e-3)  # the peak, after 5% of the updates
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=0.1)  # nanoGPT's, better than a tenth of it
    return hp


def build_model(hp):
    """Characters (streams, steps) to logits (streams, steps, V); a window starts from the states after the last one."""
    cell = {"lstm": layers.LSTM, "gru": layers.GRU}[hp["cell"]]
    # With Keras's default of 0.05 the recurrent part would drown out the input for the first thousand steps.
    unit_scale = keras.initializers.RandomNormal(stddev=1.0)
    characters = keras.Input((hp["steps"],), batch_size=hp["streams"], dtype="int32")
    hidden = layers.Embedding(len(VOCABULARY), hp["embedding"], unit_scale, name="embedding")(characters)
    hidden = cell(hp["units"], return_sequences=True, stateful=hp["stateful"], name="recurrent")(hidden)
    hidden = layers.Dropout(hp["dropout"])(hidden)  # (streams, steps, units)
    logits = layers.Dense(len(VOCABULARY), name="logits")(hidden)
    model = keras.Model(characters, logits, name="language_model")
    model.compile(
        keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], beta_2=0.99, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[Perplexity()],
    )
    return model


def for_inference(model):
    """The same weights, the states outside: [characters (N, T), *states (N, units)] to [logits (N, T, V), *states]."""
    cell = model.get_layer("recurrent").cell
    characters = keras.Input((None,), dtype="int32", name="shifted_characters")  # Each one place before its target.
    states = [keras.Input((units,)) for units in keras.tree.flatten(cell.state_size)]  # An LSTM has two.
    recurrent = layers.RNN(cell, return_sequences=True, return_state=True)
    hidden, *last_states = recurrent(model.get_layer("embedding")(characters), initial_state=states)
    logits = model.get_layer("logits")(hidden)
    return keras.Model([characters, *states], [logits, *last_states], name=model.name)


def load_text(hp, split):
    """The split's first `examples` characters."""
    text = tfds.load("tiny_shakespeare", split=SPLITS[split]).get_single_element()["text"]
    return text.numpy().decode()[: hp["examples"]]


def encode(text, vocabulary=VOCABULARY):
    """Characters to ids (T,); one that is not in the vocabulary is read as a space."""
    ids = {character: index for index, character in enumerate(vocabulary)}
    return tf.constant([ids.get(character, ids[" "]) for character in text])


def load_data(hp, split, streams=None):
    """Batches of (characters, next characters, weights), each (streams, steps); batch t + 1 continues every row of t.

    Every character is a target once; the last rows are padded on the right, with weights of 0. The training text is a
    ring, cut open at a different place in every epoch, so that neither streams nor windows end where they did before.
    """
    text, streams, steps = load_text(hp, split), streams or hp["streams"], hp["steps"]
    padding = -len(text) % (streams * steps)

    def windows(ids):
        rows = [tf.pad(row, [[0, padding]]) for row in (ids[:-1], ids[1:], tf.ones(len(text)))]
        batches = [tf.transpose(tf.reshape(row, (streams, -1, steps)), (1, 0, 2)) for row in rows]
        return tf.data.Dataset.from_tensor_slices(tuple(batches))

    if split != "train":
        return windows(encode(START + text))
    ids = encode(text)
    places = shuffle(tf.data.Dataset.range(len(text), output_type=tf.int32)).take(1)
    batches = places.flat_map(lambda place: windows(tf.concat([ids[place:], ids[: place + 1]], axis=0)))
    return batches.apply(tf.data.experimental.assert_cardinality((len(text) + padding) // (streams * steps)))


class ResetStates(keras.callbacks.Callback):
    """Resets the states before every epoch and validation, which would otherwise read on where training stopped."""

    def on_epoch_begin(self, *_):
        self.model.get_layer("recurrent").reset_state()

    on_test_begin = on_epoch_begin


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model in its inference form."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(warmup=0.05), ResetStates(), *callbacks],
        shuffle=False,  # Each batch continues the one before.
    )
    return for_inference(model)


def evaluate(model, hp):
    """Nats per character: each is predicted once, from all those before it in its split; the first one from START."""
    validation, test = (surprise(model, load_data(hp, split, streams=1))[0] for split in ("validation", "test"))
    from_zeros, _ = surprise(model, load_data(hp, "test", streams=test.size // hp["steps"]))  # One window per row.
    return {
        "test_nats": float(np.nanmean(test)),
        "test_perplexity": float(np.exp(np.nanmean(test))),
        "validation_nats": float(np.nanmean(validation)),
        "both_nats": float(np.nanmean(np.concatenate([validation, test], axis=1))),
        "test_nats_from_zeros": float(np.nanmean(from_zeros)),
        "ngram_test_nats": float(np.mean(ngram_surprise(load_text(hp, "train"), load_text(hp, "test")))),
    }


def surprise(model, batches, states=None):
    """The nats of every character (streams, T), NaN for padding, and the last states; the default start is zeros."""
    nats, rows = [], batches.element_spec[0].shape[0]
    states = states or [np.zeros((rows, each.shape[-1]), "float32") for each in model.inputs[1:]]
    for characters, targets, weights in batches:
        logits, *states = model.predict_on_batch([characters, *states])
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        nats.append(tf.where(weights > 0, losses, np.nan))
    return np.concatenate(nats, axis=1), states


def ngram_surprise(train_text, text, order=5):
    """The baseline: the nats of every character of `text` under n-grams of `train_text`, n from 1 to `order`.

    An estimate is (count + kinds * shorter n-gram's estimate) / (total + kinds), where `kinds` is how many different
    characters followed the context (Witten and Bell, 1991). Order 5 is the best on validation.
    """
    estimates = np.full(len(text), 1 / len(VOCABULARY))
    for n in range(1, order + 1):
        known = [train_text[start : start + n] for start in range(len(train_text) - n + 1)]
        padded = START * (n - 1) + text
        asked = [padded[start : start + n] for start in range(len(text))]
        counts, totals = collections.Counter(known), collections.Counter(gram[:-1] for gram in known)
        kinds = collections.Counter(gram[:-1] for gram in counts)
        count, total, kind = np.array([(counts[gram], totals[gram[:-1]], kinds[gram[:-1]]) for gram in asked]).T
        estimates = np.where(total > 0, (count + kind * estimates) / np.maximum(total + kind, 1), estimates)
    return -np.log(estimates)


def generate(model, vocabulary, prompt, length, temperature=None):
    """Continues the prompt: sampled at a temperature or, without one, the likeliest text that a beam of 5 finds.

    vocabulary: the text of vocabulary.txt; any other character of the prompt is read as a space.
    """

    def step(tokens, states):
        logits, *states = model([tokens[:, None], *states])
        return tf.nn.log_softmax(logits[:, 0]), states

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def write(ids):
        zeros = [tf.zeros((tf.shape(ids)[0], each.shape[-1])) for each in model.inputs[1:]]
        _, *states = model([ids[:, :-1], *zeros])
        if temperature is None:
            return beam_search(step, ids[:, -1], states, length, beam_size=5)[0][:, 0]
        return sample(step, ids[:, -1], states, length, temperature)

    written = write(encode(START + prompt, vocabulary)[None])[0]
    return prompt + "".join(vocabulary[index] for index in written)


def assets(hp):
    """The characters in the order of their ids."""
    return {"vocabulary.txt": VOCABULARY}


def show(model, hp):
    """Text at three temperatures and by beam search; the nats of a passage's characters, and what memory saves."""
    how = {"temperature 0.3": 0.3, "temperature 0.7": 0.7, "temperature 1.0": 1.0, "beam search": None}
    texts = {name: generate(model, VOCABULARY, "ROMEO:\n", 400, each) for name, each in how.items()}
    batches = load_data(hp, "validation", streams=256)
    from_zeros, states = surprise(model, batches)
    # The same rows again, each from the state in which the row before it ended.
    carried, _ = surprise(model, batches, [np.pad(state[:-1], ((1, 0), (0, 0))) for state in states])

    picture, (passage, memory) = new(9, 7, rows=2, height_ratios=(3, 2))
    grid = carried.ravel()[:720].reshape(12, 60)
    picture.colorbar(passage.imshow(grid, "Reds", vmin=0, vmax=8, aspect="auto"), label="nats")
    for place, character in enumerate(load_text(hp, "validation")[:720].replace("\n", "↵")):
        passage.text(place % 60, place // 60, character, family="monospace", ha="center", va="center")
    passage.set_axis_off()
    starts = 2 ** np.arange(int(np.log2(carried.shape[1] + 1)))  # 1, 2, 4, ...
    lost = [np.nanmean((from_zeros - carried)[:, start - 1 : 2 * start - 1]) for start in starts]
    plain(memory).bar([f"from {start}" for start in starts], lost, color=VALIDATION)
    memory.set(xlabel="characters read since the memory was erased", ylabel="extra nats per character without it")
    return {"samples": "\n\n".join(f"--- {name}\n{text}" for name, text in texts.items()), "surprise": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
