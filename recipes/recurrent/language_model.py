"""A recurrent network writes like Shakespeare, character by character; adaptive 7-grams predict the text better.

Result    test nats 1.488 ± 0.003 over 3 seeds, 9.0 minutes a run (8.8 CPU minutes) on 1 core
Baseline  7-grams with modified Kneser-Ney smoothing, which keep counting in the text that they predict
Published 1.4697 nats per character, nanoGPT's best checkpoint (https://github.com/karpathy/nanoGPT, GPU setting) on
          random crops of 256 characters of validation and test; here, the last checkpoint on consecutive crops
Paper     Graves: Generating Sequences With Recurrent Neural Networks, 2013, https://arxiv.org/abs/1308.0850. Here there
          is one layer instead of seven, a hundredth of the text, and dropout to reduce overfitting.
Answers   How far back does the network remember? With its state erased, a character costs 0.14 nats more after 8 to 15
          others, 0.008 after 32 to 63 and 0.000 after 128 to 255.
          Stateful or stateless training? 1.488 and 1.488 nats per character, no difference beyond the spread of the
          seeds; with every 256 characters read from a zero state, 1.516 and 1.499.
          How far must backpropagation through time go? With 10 steps and as many characters per update, 1.505 nats per
          character; with 50 and 100, 1.488 and 1.486, no difference beyond the spread of the seeds.
          LSTM or GRU? The LSTM: at equal size and learning rate, 1.459 nats per character against 1.488, in 457 CPU
          seconds against 531.

    python -m recipes.recurrent.language_model
    python -m recipes.recurrent.language_model --try "To be, or not to be"
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from common.callbacks import OneCycle
from common.data import shuffle
from common.decoding import beam_search, sample
from common.metrics import Perplexity
from common.ngrams import ngram_surprisal
from common.plots import VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "test_nats", "better": "lower"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"name": "adaptive 7-gram model", "metric": "ngram_test_nats"},
    "published": {"metric": "crops_nats", "value": 1.4697, "source": "nanoGPT's GPU setting, crops of 256 characters"},
    "data": ["tiny_shakespeare"],
}
TINY = {"examples": 1010, "epochs": 2, "streams": 4, "steps": 20, "units": 16}
VARIANTS = {
    "stateless": {"stateful": False},
    "10 steps": {"steps": 10, "streams": 160},  # An update has as many characters, streams times steps.
    "100 steps": {"steps": 100, "streams": 16},
    "LSTM": {"cell": "lstm", "units": 552},  # As many parameters, 1.4 million.
}
PINNED = ("stateful", "streams")  # They change how often validation starts from a zero state.
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

# A character's id is its index; any other character is read as a space.
VOCABULARY = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
START = "\n"  # Stands before every text, so that its first character can be predicted.
CROP = 256  # nanoGPT's context.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 1_003_854, default=1_003_854)  # Characters read from each split, at most.
    hp.Int("epochs", 1, 40, default=6)
    hp.Int("streams", 1, 256, default=32)  # Rows of a batch, each a separate text.
    hp.Int("steps", 10, 400, default=50)  # Window length: how far gradients are propagated back.
    hp.Choice("cell", ["gru", "lstm"], default="gru")
    hp.Int("units", 8, 1024, default=640)
    hp.Int("embedding", 8, 512, default=64)  # About as wide as one-hot codes of the 65 characters.
    hp.Boolean("stateful", default=True)  # False starts every window from a zero state.
    hp.Float("dropout", 0.0, 0.7, default=0.3)
    hp.Float("learning_rate", 1e-4, 2e-2, sampling="log", default=6e-3)  # The peak, reached after 5% of the updates.
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
    return keras.Model([characters, *states], [model.get_layer("logits")(hidden), *last_states], name=model.name)


def load_text(hp, split):
    """The split's first `examples` characters."""
    text = tfds.load("tiny_shakespeare", split=SPLITS[split]).get_single_element()["text"]
    return text.numpy().decode()[: hp["examples"]]


def encode(text, vocabulary=VOCABULARY):
    """The ids of the characters (T,); one that is not in the vocabulary is read as a space."""
    ids = {character: index for index, character in enumerate(vocabulary)}
    return tf.constant([ids.get(character, ids[" "]) for character in text])


def load_data(hp, split):
    """Batches of (characters, next characters, weights), each (streams, steps); every batch continues the one before.

    Weights are 0 on padding. In every epoch, the training text begins at another random place and wraps around.
    """
    text, streams, steps = load_text(hp, split), hp["streams"], hp["steps"]
    padding = -len(text) % (streams * steps)

    def windows(ids):
        rows = [tf.pad(row, [[0, padding]]) for row in (ids[:-1], ids[1:], tf.ones(len(text)))]
        batches = [tf.transpose(tf.reshape(row, (streams, -1, steps)), (1, 0, 2)) for row in rows]
        return tf.data.Dataset.from_tensor_slices(tuple(batches))

    if split != "train":
        return windows(encode(START + text))
    ids = encode(text)
    # To shuffle all million places, only to take one of them, would cost a second in every epoch.
    places = shuffle(tf.data.Dataset.range(1000)).take(1).map(lambda number: number * len(text) // 1000)
    batches = places.flat_map(lambda place: windows(tf.concat([ids[place:], ids[: place + 1]], axis=0)))
    return batches.apply(tf.data.experimental.assert_cardinality((len(text) + padding) // (streams * steps)))


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model with explicit states."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    rnn = model.get_layer("recurrent")
    # An epoch does not continue the text of the one before, nor does validation.
    resets = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: rnn.reset_state(), on_test_begin=lambda *_: rnn.reset_state()
    )
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(warmup=0.05), resets, *callbacks],
        shuffle=False,  # Each batch continues the one before.
    )
    return for_inference(model)


def evaluate(model, hp):
    """Nats per character on test, the network's and the baseline's; the network's on validation, and both together."""
    (validation, validation_crops), (test, test_crops) = (measure(model, hp, split) for split in ("validation", "test"))
    ngrams = ngram_surprisal(load_text(hp, "train"), [load_text(hp, "test")], len(VOCABULARY))
    return {
        "test_nats": np.nanmean(test),
        "validation_nats": np.nanmean(validation),
        "both_nats": np.nanmean(np.concatenate([validation, test])),
        "test_crops_nats": np.nanmean(test_crops),
        "crops_nats": np.nanmean(np.concatenate([validation_crops, test_crops])),
        **{f"extra-nats-{n}": nats for n, nats in extra_nats(test, test_crops).items()},
        "ngram_test_nats": np.mean(ngrams),
    }


def measure(model, hp, split):
    """The nats of a split's characters (N, CROP), with the state carried from row to row, and with rows from zeros."""
    values = {**hp.values, "steps": CROP, "streams": 1}
    carried = surprisal(model, load_data(values, split)).reshape(-1, CROP)
    return carried, surprisal(model, load_data({**values, "streams": len(carried)}, split))


def extra_nats(carried, crops):
    """What a character costs more with n to 2n - 1 read since the state was erased, as in all crops but the first."""
    return {n: np.nanmean((crops - carried)[1:, n - 1 : 2 * n - 1]) for n in (1, 2, 4, 8, 16, 32, 64, 128)}


def surprisal(model, batches):
    """The nats of every character (streams, T), NaN on padding; every stream begins with a zero state."""
    nats, rows = [], batches.element_spec[0].shape[0]
    states = [np.zeros((rows, each.shape[-1]), "float32") for each in model.inputs[1:]]
    for characters, targets, weights in batches:
        logits, *states = model.predict_on_batch([characters, *states])
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        nats.append(tf.where(weights > 0, losses, np.nan))
    return np.concatenate(nats, axis=1)


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
    carried, crops = measure(model, hp, "validation")
    picture, (passage, memory) = new(9, 7, rows=2, height_ratios=(3, 2))
    grid = carried.ravel()[:720].reshape(12, 60)
    picture.colorbar(passage.imshow(grid, "Reds", vmin=0, vmax=8, aspect="auto"), label="nats")
    for place, character in enumerate(load_text(hp, "validation")[:720].replace("\n", "↵")):
        passage.text(place % 60, place // 60, character, family="monospace", ha="center", va="center")
    passage.set_axis_off()
    lost = extra_nats(carried, crops)
    plain(memory).bar([f"from {n}" for n in lost], lost.values(), color=VALIDATION)
    memory.set(xlabel="characters read since the memory was erased", ylabel="extra nats per character without it")
    return {"samples": "\n\n".join(f"--- {name}\n{text}" for name, text in texts.items()), "surprise": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
