"""A character-level recurrent language model learns to write like Shakespeare, from a million characters of his plays.

Result    test nats 1.493 ± 0.003 over 3 seeds, 20.3 minutes a run (17.8 CPU minutes) on 1 core
Baseline  an interpolated 5-gram model trained on the same text
Published 1.4697 nats per character on validation and test together, nanoGPT's GPU setting for shakespeare_char,
          evaluated on random crops: https://github.com/karpathy/nanoGPT
Paper     Graves: Generating Sequences With Recurrent Neural Networks, 2013, https://arxiv.org/abs/1308.0850. Here there
          is one layer instead of seven, a hundredth of the text, and dropout to reduce overfitting.
Answers   Does the network beat n-grams? Yes: 1.49 nats per character, 5-grams 1.77.
          What does carrying the state from window to window add? 1.493 nats per character with it; the same network,
          started from zeros in every window, gets 1.567.
          Must training carry the state too? No: 1.483 nats without, 1.493 with it.
          How far back does the network remember? not measured yet

    python -m recipes.recurrent.language_model
    python -m recipes.recurrent.language_model --try "To be, or not to be"
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
    "answers": {
        "Does the network beat n-grams?": "Yes: {test_nats:.2f} nats per character, 5-grams {ngram_test_nats:.2f}.",
        "What does carrying the state from window to window add?": "{test_nats:.3f} nats per character with it; the "
        "same network, started from zeros in every window, gets {test_nats_from_zeros:.3f}.",
        "Must training carry the state too?": "No: {stateless/test_nats:.3f} nats without, {test_nats:.3f} with it.",
        "How far back does the network remember?": "not measured yet",
    },
}
TINY = {"examples": 1010, "epochs": 2, "streams": 4, "steps": 20, "units": 16}
VARIANTS = {"stateless": {"stateful": False}}
PINNED = ("stateful",)  # It changes how validation is measured: if false, every window starts from a zero state.
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

# A character's id is its index; any other character is read as a space.
VOCABULARY = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
START = "\n"  # Stands before every text, so that its first character can be predicted.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 1_003_854, default=1_003_854)  # Characters read from each split, at most.
    hp.Int("epochs", 1, 40, default=8)
    hp.Int("streams", 1, 256, default=32)  # Rows of a batch, each a separate text; 64 would halve the updates.
    hp.Int("steps", 10, 400, default=100)  # Window length: how far gradients are propagated back.
    hp.Choice("cell", ["gru", "lstm"], default="gru")
    hp.Int("units", 8, 1024, default=640)
    hp.Int("embedding", 8, 512, default=64)  # About as wide as one-hot codes of the 65 characters.
    hp.Boolean("stateful", default=True)  # False starts every window from a zero state.
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # 0.5 with one more epoch is no better on validation.
    hp.Float("learning_rate", 1e-4, 2e-2, sampling="log", default=4e-3)  # The peak, reached after 5% of the updates.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=0.1)  # As in nanoGPT; a tenth of it is worse.
    return hp


def build_model(hp):
    """Characters (streams, steps) to logits (streams, steps, V); every window starts from the previous one's state."""
    cell = {"lstm": layers.LSTM, "gru": layers.GRU}[hp["cell"]]
    # With Keras's default scale of 0.05, the input would hardly affect the state in the first thousand updates.
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
    """The same weights with explicit states: [characters (N, T), *states (N, units)] to [logits (N, T, V), *states]."""
    cell = model.get_layer("recurrent").cell
    characters = keras.Input((None,), dtype="int32", name="shifted_characters")  # One place before the targets.
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
    """The ids of the characters (T,); one that is not in the vocabulary is read as a space."""
    ids = {character: index for index, character in enumerate(vocabulary)}
    return tf.constant([ids.get(character, ids[" "]) for character in text])


def load_data(hp, split, streams=None):
    """Batches of (characters, next characters, weights), each (streams, steps); every batch continues the one before.

    Weights are 0 on padding. In every epoch, the training text begins at another random place and wraps around at its
    end, so that the windows differ from epoch to epoch.
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


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model with explicit states."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)

    def reset_states(*_):
        model.get_layer("recurrent").reset_state()

    # An epoch does not continue the text of the one before, nor does validation.
    resets = keras.callbacks.LambdaCallback(on_epoch_begin=reset_states, on_test_begin=reset_states)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(warmup=0.05), resets, *callbacks],
        shuffle=False,  # Each batch continues the one before.
    )
    return for_inference(model)


def evaluate(model, hp):
    """The network's and the baseline's nats per character; each is predicted from all those before it in its split."""
    validation, test = (surprisal(model, load_data(hp, split, streams=1))[0] for split in ("validation", "test"))
    from_zeros, _ = surprisal(model, load_data(hp, "test", streams=test.size // hp["steps"]))  # One window per row.
    return {
        "test_nats": float(np.nanmean(test)),
        "test_perplexity": float(np.exp(np.nanmean(test))),
        "validation_nats": float(np.nanmean(validation)),
        "both_nats": float(np.nanmean(np.concatenate([validation, test], axis=1))),
        "test_nats_from_zeros": float(np.nanmean(from_zeros)),
        "ngram_test_nats": float(np.mean(ngram_surprisal(load_text(hp, "train"), load_text(hp, "test")))),
    }


def surprisal(model, batches, states=None):
    """The nats of every character (streams, T), NaN on padding, and the final states; initial ones default to zero."""
    nats, rows = [], batches.element_spec[0].shape[0]
    states = states or [np.zeros((rows, each.shape[-1]), "float32") for each in model.inputs[1:]]
    for characters, targets, weights in batches:
        logits, *states = model.predict_on_batch([characters, *states])
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        nats.append(tf.where(weights > 0, losses, np.nan))
    return np.concatenate(nats, axis=1), states


def ngram_surprisal(train_text, text, order=5):  # Order 5 is the best on validation.
    """The baseline: the nats of every character of `text` under n-grams of `train_text` with Witten-Bell smoothing."""
    estimates = np.full(len(text), 1 / len(VOCABULARY))
    for n in range(1, order + 1):
        seen = [train_text[start : start + n] for start in range(len(train_text) - n + 1)]
        counts, totals = collections.Counter(seen), collections.Counter(gram[:-1] for gram in seen)
        kinds = collections.Counter(gram[:-1] for gram in counts)  # How many different characters follow.
        padded = START * (n - 1) + text
        grams = [padded[start : start + n] for start in range(len(text))]
        count, total, kind = np.array([(counts[gram], totals[gram[:-1]], kinds[gram[:-1]]) for gram in grams]).T
        estimates = np.where(total > 0, (count + kind * estimates) / np.maximum(total + kind, 1), estimates)
    return -np.log(estimates)


def generate(model, vocabulary, prompts, length, temperature=None):
    """Continues every prompt by `length` characters, sampled at a temperature or, without one, found by beam search."""

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

    written = [write(encode(START + prompt, vocabulary)[None])[0] for prompt in prompts]
    return ["".join(vocabulary[index] for index in row) for row in written]


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
    """The surprisal of a passage's characters, and how much the memory of earlier text lowers it; generated samples."""
    how = {"temperature 0.3": 0.3, "temperature 0.7": 0.7, "temperature 1.0": 1.0, "beam search": None}
    prompt = "ROMEO:\n"
    texts = {name: prompt + generate(model, VOCABULARY, [prompt], 400, each)[0] for name, each in how.items()}
    batches = load_data(hp, "validation", streams=256)
    from_zeros, states = surprisal(model, batches)
    # The same rows again, each from the state in which the row before it ended.
    carried, _ = surprisal(model, batches, [np.pad(state[:-1], ((1, 0), (0, 0))) for state in states])

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
