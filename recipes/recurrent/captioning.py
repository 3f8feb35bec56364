"""A GRU that looks around in a picture of handwritten digits tells in words what stands where.

Result    exact match 0.9565 with one seed, 11.2 minutes a run (9.6 of CPU) on 1 core
Baseline  the caption of the nearest training picture
Anchor    0.95 exact match: the recipe's own aim, since nothing is published for made data
Paper     Xu et al., Show, Attend and Tell: Neural Image Caption Generation with Visual Attention, 2015,
          https://arxiv.org/abs/1502.03044, soft attention; a GRU for its LSTM, an encoder trained with it from scratch,
          and each cell of the picture knows its place. Without the gate on the context and doubly stochastic attention.
Answers   Are pairs of digits captioned that training never showed in that relation? What does attention add to one
          vector for the whole picture? Where does it look at each word? Do longer captions fail more often?

    python -m recipes.recurrent.captioning
    python -m recipes.recurrent.captioning --set units=256 --seed 1
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import colors, patches
from sklearn import neighbors

from common import data, decoding, plots, runner, training
from common.datasets import mnist_scenes

PROMISE = {
    "figure": {"metric": "exact_match", "better": "higher"},
    "monitor": {"metric": "val_token_accuracy", "better": "higher"},
    "baseline": {"metric": "nearest_exact_match", "name": "caption of the nearest training picture"},
    "anchor": {"value": 0.95, "source": "the recipe's own aim"},
    "data": ["mnist_scenes"],
    "tolerance": 0.02,  # For `verify`, since one seed tells no spread.
}
TINY = {"examples": 128, "epochs": 2, "units": 32}
VARIANTS = {"one vector for the picture": {"attention": False}}
# No picture of train, validation and test holds the pairs of digits that every one of the unseen splits has.
SPLITS = {
    "train": "train",
    "validation": "validation",
    "validation_unseen": "validation_unseen",
    "test": "test",
    "test_unseen": "test_unseen",
}

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# A word's token is its index; 0 is padding.
WORDS = ["", "<start>", "a", "an", *DIGITS, "left", "of", "above", "<end>"]
START, END = 1, len(WORDS) - 1
LENGTH = 15  # "a one left of a two left of a three left of a four", and the end token.
GRID = 8  # Cells of the encoder's output along a picture's side.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 25_000, default=25_000)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=8)
    hp.Int("batch_size", 16, 256, step=16, default=32)  # Small: many steps pass before attention finds its way.
    hp.Int("filters", 8, 64, step=8, default=16)  # Of the first convolution; the later ones have two and four times.
    hp.Int("units", 32, 512, step=32, default=128)
    hp.Boolean("attention", default=True)  # False gives the decoder one vector for the whole picture at every step.
    hp.Float("dropout", 0.0, 0.7, default=0.2)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak, after a tenth of the steps.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def read(hp, split):
    """The split's pictures (N, 64, 64, 1), uint8, and captions, a list of str."""
    data.load("mnist", "train")  # The scenes are composed of it; if it can't be had, this says so at once.
    scenes = data.load(mnist_scenes.Builder, SPLITS[split], hp["examples"])
    batch = scenes.batch(hp["examples"]).get_single_element()
    return batch["image"].numpy(), [caption.decode() for caption in batch["caption"].numpy()]


def load_data(hp, split):
    """Batches of (picture (B, 64, 64, 1), caption shifted right (B, T)), caption (B, T), weight (B, T): 1 on words."""
    images, captions = read(hp, split)
    tokens = {word: token for token, word in enumerate(WORDS)}
    targets = np.zeros((len(captions), LENGTH), "int32")
    for row, caption in zip(targets, captions):
        numbers = [*map(tokens.get, caption.split()), END]
        row[: len(numbers)] = numbers
    mask = targets != 0
    shifted = np.where(mask, np.pad(targets, ((0, 0), (1, 0)), constant_values=START)[:, :-1], 0)
    examples = tf.data.Dataset.from_tensor_slices(((images, shifted), targets, mask.astype("float32")))
    if split == "train":
        examples = data.shuffle(examples)
    return examples.batch(hp["batch_size"]).prefetch(2)


def encode(hp, images):
    """From pictures (B, 64, 64, 1) to what each of their cells shows, and where it lies: (B, cells, units).

    Without attention the whole picture is one cell.
    """
    hidden = layers.Rescaling(1 / 255)(images)
    for factor, kernel_size in ((1, 5), (2, 3), (4, 3)):
        hidden = layers.Conv2D(factor * hp["filters"], kernel_size, padding="same", use_bias=False)(hidden)
        hidden = layers.MaxPooling2D()(hidden)  # At last (B, 8, 8, 4 filters).
        # Black pictures have little variance: with the usual 0.99 its estimate would stay near 1, where it starts.
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
    hidden = layers.Conv2D(hp["units"], 3, padding="same", activation="relu")(hidden)
    count = GRID * GRID if hp["attention"] else 1
    hidden = layers.Dropout(hp["dropout"])(layers.Reshape((count, -1))(hidden))
    # With a bias of its own for every cell: they have no order that attention could see.
    places = keras.initializers.RandomNormal(stddev=0.5)
    cells = layers.EinsumDense(
        "bcf,fu->bcu",
        (count, hp["units"]),
        activation="relu",
        bias_axes="cu",
        bias_initializer=places,
        name="cells",
    )
    return cells(hidden)


def write(layer, words, hidden_state, cells):
    """One step of the decoder: reads a word (B,), looks at the picture, and holds every next word possible.

    layer: from a name to the layer.

    Returns:
        logits (B, V), the next state (B, units), and where it looked (B, cells), rows summing to 1.
    """
    word = layer("words")(words)
    query = layer("query")(ops.concatenate([word, hidden_state], axis=-1))[:, None]  # (B, 1, units)
    context, attention = layer("attention")([query, cells], return_attention_scores=True)
    context = layer("decoder_dropout")(context[:, 0])
    hidden_state, _ = layer("decoder")(ops.concatenate([word, context], axis=-1), [hidden_state])
    return layer("logits")(ops.concatenate([hidden_state, context], axis=-1)), hidden_state, attention[:, 0]


def build_model(hp):
    """Teacher forcing: (picture (B, 64, 64, 1), caption shifted right (B, T)) to logits (B, T, V)."""
    units = hp["units"]
    images = keras.Input((64, 64, 1), dtype="uint8", name="images")
    shifted = keras.Input((LENGTH,), dtype="int32", name="shifted_caption")
    unit = keras.initializers.RandomNormal(stddev=1.0)
    parts = [
        layers.Embedding(len(WORDS), units, unit, name="words"),
        layers.Dense(units, name="query"),
        layers.AdditiveAttention(name="attention"),
        layers.GRUCell(units, name="decoder"),
        layers.Dropout(hp["dropout"], name="decoder_dropout"),
        layers.Dense(len(WORDS), name="logits"),
    ]
    layer = {part.name: part for part in parts}.get
    cells = encode(hp, images)
    hidden_state = layers.Dense(units, activation="tanh", name="first_state")(ops.mean(cells, axis=1))
    logits = []
    for position in range(LENGTH):
        step_logits, hidden_state, _ = write(layer, shifted[:, position], hidden_state, cells)
        logits.append(step_logits)
    model = keras.Model([images, shifted], ops.stack(logits, axis=1), name="captioning")
    steps = hp["epochs"] * -(-hp["examples"] // hp["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(
        hp["learning_rate"] / 10, steps - steps // 10, warmup_target=hp["learning_rate"], warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("token_accuracy")],
        jit_compile=False,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` with teacher forcing and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("captioning", hp["examples"]),
        verbose=0,
        shuffle=False,
    )
    return model


def see(model, images):
    """The picture's cells (B, cells, units), and the decoder's first state (B, units)."""
    outputs = [model.get_layer(name).output for name in ("cells", "first_state")]
    return keras.Model(model.inputs[0], outputs)(images, training=False)


def caption(model, images):
    """Tells in words what pictures (N, 64, 64, 1) show, each time the likeliest word: a list of str."""
    captions = []
    for batch in np.split(images, range(500, len(images), 500)):
        cells, first_state = see(model, batch)

        def step(tokens, states, cells=cells):
            logits, hidden_state, _ = write(model.get_layer, tokens, states[0], cells)
            return tf.nn.log_softmax(logits), [hidden_state]

        written = decoding.greedy(step, tf.fill(len(batch), START), [first_state], LENGTH, END).numpy()
        captions += [" ".join(WORDS[token] for token in row if 0 < token < END) for row in written]
    return captions


def attention_maps(model, image, words):
    """Where the decoder looked in a picture (64, 64, 1) before it wrote each of `words`: (words, 8, 8)."""
    cells, hidden_state = see(model, image[None])
    maps = []
    for word in ["<start>", *words[:-1]]:
        token = tf.constant([WORDS.index(word)])
        _, hidden_state, attention = write(model.get_layer, token, hidden_state, cells)
        side = int(attention.shape[1] ** 0.5)
        maps.append(np.reshape(attention, (side, side)))
    return np.array(maps)


def nearest_captions(hp, images):
    """The baseline: for each picture the caption of the training picture that is nearest, at a quarter of its side."""
    known, captions = read(hp, "train")
    small, known_small = (each.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(-1, 256) for each in (images, known))
    nearest = neighbors.NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known_small)
    return [captions[index] for index in nearest.kneighbors(small, return_distance=False)[:, 0]]


def share_right(written, captions):
    """The share of captions that are right to the last word."""
    return float(np.mean([one == other for one, other in zip(written, captions, strict=True)]))


def number_of_digits(text):
    """How many digits a caption names."""
    return sum(word in DIGITS for word in text.split())


def evaluate(model, hp):
    """The share of test pictures whose whole caption is right, also by their number of digits; the baseline's."""
    results = {}
    for split, name in (("test", ""), ("test_unseen", "_unseen_pairs")):
        images, captions = read(hp, split)
        written = caption(model, images)
        results[f"exact_match{name}"] = share_right(written, captions)
        results[f"nearest_exact_match{name}"] = share_right(nearest_captions(hp, images), captions)
        for count in (2, 3, 4):
            pairs = [pair for pair in zip(written, captions) if number_of_digits(pair[1]) == count]
            results[f"exact_match_{count}_digits{name}"] = share_right(*zip(*pairs))
    return results


def draw_attention(model, images, captions):
    """One row a picture: the picture alone, then where the decoder looked before each word that it wrote."""
    written = caption(model, images)
    picture, axes = plots.new(1.1 * (LENGTH + 1), 1.5 * len(images), rows=len(images), columns=LENGTH + 1)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, image, right, own in zip(axes, images, captions, written):
        row[0].set_title("right" if own == right else "wrong", fontweight="bold")
        words = [*own.split(), "<end>"]
        for ax, word, weights in zip(row[1:], words, attention_maps(model, image, words)):
            overlay = np.full((*weights.shape, 4), colors.to_rgba(plots.VALIDATION))
            overlay[..., 3] = np.minimum(1.0, 3.0 * weights)  # A third of the attention is full colour.
            ax.imshow(overlay, extent=(0, 64, 64, 0), zorder=1)
            ax.set_title(word)
        for ax in row[: len(words) + 1]:
            ax.imshow(image, cmap="gray_r", extent=(0, 64, 64, 0), zorder=0)
            ax.add_patch(patches.Rectangle((0, 0), 64, 64, fill=False, color=plots.MUTED, linewidth=2, clip_on=False))
    return picture


def show(model, hp):
    """Attention in pictures of two, three and four digits with pairs that training never showed, and wrong captions."""
    images, captions = read(hp, "validation_unseen")
    numbers = [number_of_digits(each) for each in captions]
    chosen = [numbers.index(count) for count in (2, 3, 4)]
    picture = draw_attention(model, images[chosen], [captions[index] for index in chosen])
    pairs = zip(caption(model, images), captions)
    wrong = [f"right    {right}\nwritten  {own}" for own, right in pairs if own != right]
    return {"attention": picture, "mistakes": "\n\n".join(wrong[:10])}


if __name__ == "__main__":
    runner.run(__spec__.name)
