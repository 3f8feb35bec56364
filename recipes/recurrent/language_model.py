"""A recurrent network reads tiny_shakespeare character by character and learns to write on.

Result    test nats 1.493 ± 0.003 over 3 seeds, 20.3 minutes a run (17.8 of CPU) on 1 core
Baseline  an interpolated 5-gram, counted on the same text and scored the same way
Anchor    1.4697 nats per character on validation and test together: nanoGPT's GPU setting for
          shakespeare_char, scored on random crops (https://github.com/karpathy/nanoGPT)
Paper     Graves, Generating Sequences With Recurrent Neural Networks, 2013, https://arxiv.org/abs/1308.0850;
          here one layer in place of seven, a hundredth of the text, and dropout against overfitting
Answers   What is it worth to carry the state from window to window, in training and in use?
          How far back does the network remember? Which characters surprise it?
          What do temperature and beam search do to the text that it writes?

    python -m recipes.recurrent.language_model
    python -m recipes.recurrent.language_model --set cell=lstm --seed 1
"""

import collections
import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure

from common import data, decoding, metrics, runner, training

PROMISE = {
    "figure": {"metric": "test_nats", "better": "lower"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"name": "interpolated 5-gram", "metric": "ngram_test_nats"},
    "anchor": {"metric": "both_nats", "value": 1.4697, "source": "nanoGPT train_shakespeare_char.py, GPU setting"},
    "data": ["tiny_shakespeare"],
}
TINY = {"examples": 3000, "epochs": 2, "streams": 4, "steps": 20, "units": 16}
VARIANTS = {"stateless": {"stateful": False}}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

VOCABULARY = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
START = "\n"  # what the first character of a text is predicted from


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 1_003_854, default=1_003_854)  # characters read of each split
    hp.Int("epochs", 1, 40, default=8)
    hp.Int("streams", 1, 256, default=32)  # places read side by side, a row each; 64 would halve the updates
    hp.Int("steps", 10, 400, default=100)  # characters between two updates: as far back as a gradient reaches
    hp.Choice("cell", ["gru", "lstm"], default="gru")
    hp.Int("units", 8, 1024, default=640)
    hp.Int("embedding", 8, 512, default=64)  # as wide as one-hot codes of the 65 characters
    hp.Boolean("stateful", default=True)  # False: every window starts from a state of zeros
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # 0.5 for one epoch more is no better on validation
    hp.Float("learning_rate", 1e-4, 2e-2, sampling="log", default=4e-3)  # the peak, after 5% of the updates
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=0.1)  # nanoGPT's, better than a tenth of it
    return hp


def load_text(hp, split):
    """The split's first `examples` characters."""
    (example,) = data.load("tiny_shakespeare", SPLITS[split])
    return example["text"].numpy().decode()[: hp["examples"]]


def encode(text):
    """Characters to ids (T,)."""
    return tf.constant([VOCABULARY.index(character) for character in text])


def decode(ids):
    """Ids (T,) to characters."""
    return "".join(VOCABULARY[index] for index in ids)


def load_data(hp, split, streams=None):
    """Batches of (characters, next characters, weights), each (streams, steps); batch t + 1 continues every row of t.

    Every character is a target once. The last rows are padded at the right, with weights of 0. Train is a ring, cut
    open at another place in every epoch, so that neither streams nor windows end where they did before.
    """
    text = encode(load_text(hp, split))
    streams, steps = streams or hp["streams"], hp["steps"]
    padding = -len(text) % (streams * steps)

    def windows(characters, targets):
        rows = [tf.pad(row, [[0, padding]]) for row in (characters, targets, tf.ones(len(text)))]
        batches = [tf.transpose(tf.reshape(row, (streams, -1, steps)), (1, 0, 2)) for row in rows]
        return tf.data.Dataset.from_tensor_slices(tuple(batches))

    if split != "train":
        return windows(tf.concat([encode(START), text[:-1]], axis=0), text)

    def one_epoch(offset):
        return windows(tf.roll(text, -offset, axis=0), tf.roll(text, -offset - 1, axis=0))

    epochs = data.shuffle(tf.data.Dataset.range(len(text), output_type=tf.int32)).take(1).flat_map(one_epoch)
    return epochs.apply(tf.data.experimental.assert_cardinality((len(text) + padding) // (streams * steps)))


def network(hp, characters, states=None):
    """Characters (N, T) to the logits of the next ones (N, T, V) and the last states, a list of (N, units).

    Without `states` the recurrent layer keeps its own: a window starts with the last states of the window before.
    """
    cell = {"lstm": layers.LSTM, "gru": layers.GRU}[hp["cell"]]
    # Keras's default of 0.05 would leave the input unheard beside the recurrent part for the first thousand steps.
    unit_scale = keras.initializers.RandomNormal(stddev=1.0)
    hidden = layers.Embedding(len(VOCABULARY), hp["embedding"], embeddings_initializer=unit_scale)(characters)
    recurrent = cell(hp["units"], return_sequences=True, return_state=True, stateful=hp["stateful"] and states is None)
    hidden, *states = recurrent(hidden, initial_state=states)  # (N, T, units)
    hidden = layers.Dropout(hp["dropout"])(hidden)
    return layers.Dense(len(VOCABULARY))(hidden), states


def build_model(hp):
    """The network in training: (streams, steps) characters in, logits out, the states inside the layers."""
    characters = keras.Input((hp["steps"],), batch_size=hp["streams"], dtype="int32")
    logits, _ = network(hp, characters)
    model = keras.Model(characters, logits)
    updates = -(-hp["examples"] // (hp["streams"] * hp["steps"])) * hp["epochs"]
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, updates - updates // 20, warmup_target=hp["learning_rate"], warmup_steps=updates // 20
    )
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=hp["weight_decay"], beta_2=0.99, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer, loss, weighted_metrics=[metrics.Perplexity()])
    return model


def for_inference(model, hp):
    """The same weights, the states outside: [characters (N, T), *states (N, units)] -> [logits (N, T, V), *states]."""
    characters = keras.Input((None,), dtype="int32")
    states = [keras.Input((hp["units"],)) for _ in range({"lstm": 2, "gru": 1}[hp["cell"]])]
    logits, last_states = network(hp, characters, states)
    copy = keras.Model([characters, *states], [logits, *last_states])
    for weight, trained in zip(copy.trainable_weights, model.trainable_weights, strict=True):
        weight.assign(trained)
    return copy


class ResetStates(keras.callbacks.Callback):
    """Zeros the states before every epoch and every validation, which would else read on where training stopped."""

    def on_epoch_begin(self, *_):
        for layer in self.model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_state()

    on_test_begin = on_epoch_begin


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` and returns the model in its inference form."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks("fit", examples=hp["examples"]), ResetStates()],
    )
    return for_inference(model, hp)


def zero_states(model, rows):
    """The states of a network that has read nothing, each (rows, units)."""
    return [tf.zeros((rows, state.shape[-1])) for state in model.inputs[1:]]


def surprise(model, batches):
    """The nats of every character, -log p(character | those before it in its row), (streams, T); NaN for padding."""
    predict = tf.function(model)
    nats, states = [], zero_states(model, batches.element_spec[0].shape[0])
    for characters, targets, weights in batches:
        logits, *states = predict([characters, *states])
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        nats.append(tf.where(weights > 0, losses, np.nan))
    return np.concatenate(nats, axis=1)


def ngram_surprise(train_text, text, order=5):
    """The nats of every character of `text` under n-grams of `train_text`, from 1 to `order`, interpolated.

    An order's estimate is (count + kinds * shorter order's estimate) / (total + kinds), where `kinds` is how many
    different characters followed the context (Witten and Bell, 1991). Order 5 is the best on validation.
    """
    grams, totals, kinds = collections.Counter(), collections.Counter(), collections.Counter()
    for n in range(1, order + 1):
        grams.update(train_text[start : start + n] for start in range(len(train_text) - n + 1))
    for gram, count in grams.items():
        totals[gram[:-1]] += count
        kinds[gram[:-1]] += 1

    probabilities = np.full(len(text), 1 / len(VOCABULARY))
    padded = START * (order - 1) + text
    for index, character in enumerate(text):
        for n in range(order):
            context = padded[index + order - 1 - n : index + order - 1]
            if context in kinds:
                count = grams[context + character] + kinds[context] * probabilities[index]
                probabilities[index] = count / (totals[context] + kinds[context])
    return -np.log(probabilities)


def evaluate(model, hp):
    """Nats per character: each is predicted once, from all that precede it in its split; the first one from START."""
    validation = surprise(model, load_data(hp, "validation", streams=1))
    test = surprise(model, load_data(hp, "test", streams=1))
    test_from_zeros = surprise(model, load_data(hp, "test", streams=test.size // hp["steps"]))  # one window a row
    ngram = ngram_surprise(load_text(hp, "train"), load_text(hp, "test"))
    return {
        "test_nats": float(np.nanmean(test)),
        "test_perplexity": float(np.exp(np.nanmean(test))),
        "validation_nats": float(np.nanmean(validation)),
        "both_nats": float(np.nanmean(np.concatenate([validation, test], axis=1))),
        "test_nats_from_zeros": float(np.nanmean(test_from_zeros)),
        "ngram_test_nats": float(np.mean(ngram)),
    }


def generate(model, prompt, length, temperature=None):
    """Continues the prompt: drawn at a temperature or, without one, the likeliest text that a beam of 5 finds."""
    ids = encode(START + prompt)[None]  # (1, T)
    _, *states = model([ids[:, :-1], *zero_states(model, 1)])

    def step(tokens, states):
        logits, *states = model([tokens[:, None], *states])
        return tf.nn.log_softmax(logits[:, 0]), states

    if temperature is None:
        written = decoding.beam_search(step, ids[:, -1], states, length, beam_size=5)[0][:, 0]
    else:
        written = decoding.sample(step, ids[:, -1], states, length, temperature)
    return prompt + decode(written[0].numpy())


def assets(hp):
    """The characters in the order of their ids."""
    return {"vocabulary.txt": VOCABULARY}


def show(model, hp):
    """Text at three temperatures and by beam search; what a passage's characters cost, and what memory saves."""
    texts = {f"temperature {each}": generate(model, "ROMEO:\n", 400, each) for each in (0.3, 0.7, 1.0)}
    texts["beam search"] = generate(model, "ROMEO:\n", 400)
    carried = surprise(model, load_data(hp, "validation", streams=1))[0]
    from_zeros = surprise(model, load_data(hp, "validation", streams=256))  # read from 256 places in the text
    return {
        "samples": "\n\n".join(f"--- {how}\n{text}" for how, text in texts.items()),
        "surprise": picture(load_text(hp, "validation"), carried, from_zeros - np.resize(carried, from_zeros.shape)),
    }


def picture(text, nats, cost_of_zeros, rows=15, columns=52):
    """Above, the first lines of a text, each character on a ground as red as it surprised the network.

    Below, by how many characters were read since, what a start from zeros adds to the nats (streams, T) of the next.
    """
    figure = Figure(figsize=(9, 7), layout="constrained", dpi=120)
    passage, memory = figure.subplots(2, height_ratios=(3, 2))
    grid, start = np.full((rows, columns), np.nan), 0
    for row, line in enumerate(text.splitlines(keepends=True)[:rows]):
        for column, character in enumerate(line[:columns]):
            grid[row, column] = nats[start + column]
            passage.text(column, row, character.replace("\n", "↵"), family="monospace", ha="center", va="center")
        start += len(line)
    figure.colorbar(passage.imshow(grid, cmap="Reds", vmin=0, vmax=8, aspect="auto"), label="nats", shrink=0.6)
    passage.set_axis_off()
    edges = np.unique(np.geomspace(1, cost_of_zeros.shape[1] + 1, 16).astype(int))
    means = [np.nanmean(cost_of_zeros[:, low - 1 : high - 1]) for low, high in itertools.pairwise(edges)]
    memory.axhline(0.0, color="#cbd5e1", linewidth=1)
    memory.semilogx(np.sqrt(edges[:-1] * (edges[1:] - 1)), means, "o-", color="#c2410c")
    memory.set(xlabel="characters read since the state was zeros", ylabel="nats per character lost by it")
    memory.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    runner.run(__spec__.name)
