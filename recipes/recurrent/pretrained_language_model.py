"""An LSTM pretrained to predict the next word of film reviews needs fewer labels to tell positive from negative ones.

Result    accuracy 0.8816 with one seed, 10.2 minutes a run (9.6 of CPU) on 2 cores
Baseline  TF-IDF of words and pairs of words with logistic regression, on the same labelled reviews
Published 0.9276 with 25,000 labels, SA-LSTM of Dai and Le: 1,024 units, pretrained on three times the text
Paper     Dai, Le: Semi-supervised Sequence Learning, 2015, https://arxiv.org/abs/1511.01432. Here one small layer reads
          only the text of the training reviews and learns with a sampled softmax; pooled states, discriminative rates
          and gradual unfreezing are those of Howard and Ruder 2018, https://arxiv.org/abs/1801.06146.
Answers   Up to how many labels does a pretrained language model help? What does fine-tuning add to frozen features?
          How many labels is pretraining worth? Do rates that shrink with depth help, and does gradual unfreezing?

    python -m recipes.recurrent.pretrained_language_model
    python -m recipes.recurrent.pretrained_language_model --set labels=500 rate_decay=2.6
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import feature_extraction, linear_model, pipeline

from common.callbacks import OneCycle
from common.data import shuffle
from common.plots import new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "tfidf_accuracy"},
    "published": {"value": 0.9276, "source": "Dai and Le 2015, SA-LSTM, three times the text"},
    "data": ["imdb_reviews"],
    "tolerance": 0.01,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 70, "labels": 100, "vocabulary_size": 5_000, "units": 32, "least_steps": 2, "head_steps": 10,
        "gradual_unfreezing": True}  # fmt: skip
VARIANTS = {"rates that shrink with depth": {"rate_decay": 2.6}, "gradual unfreezing": {"gradual_unfreezing": True}}
PINNED = ("labels", "language_model_epochs", "passes", "least_steps", "head_steps")
# Ten thousand test reviews tell twelve accuracies apart well enough, in less than half the time that all take.
SPLITS = {"train": "train[:22500]", "validation": "train[22500:]", "test": "test[:10000]"}

LABELS = (100, 500, 2500, 22_500)
STRATEGIES = ("scratch", "frozen", "fine-tuned")


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 22_500, default=22_500)  # Read from each split at most.
    hp.Choice("labels", LABELS, default=22_500)  # At most; all smaller counts are tried too.
    hp.Int("vocabulary_size", 5_000, 50_000, step=5_000, default=20_000)  # All other words become one, the unknown.
    hp.Choice("embedding_size", [32, 64, 128, 256], default=128)
    hp.Choice("units", [32, 64, 128, 256, 512], default=128)
    hp.Int("window", 16, 256, step=16, default=64)  # Words that the language model reads at a time.
    hp.Int("negatives", 1, 32, default=8)  # Wrong words drawn for each window; its whole batch shares them.
    hp.Int("language_model_epochs", 1, 10, default=2)
    hp.Float("language_model_rate", 1e-4, 2e-2, sampling="log", default=4e-3)
    hp.Int("length", 50, 400, step=10, default=160)  # Of a longer review, the classifier reads the last words.
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)
    hp.Int("passes", 1, 10, default=2)  # Over the labelled reviews, for fine-tuning and from scratch alike.
    hp.Int("least_steps", 2, 1000, default=100)  # With few labels, that takes more passes.
    hp.Int("head_steps", 10, 5000, default=700)  # Of the head alone, on features computed once.
    hp.Float("learning_rate", 1e-4, 2e-2, sampling="log", default=6e-3)  # Of whatever starts from random weights.
    hp.Float("head_rate", 1e-4, 1e-1, sampling="log", default=3e-3)
    hp.Float("fine_tuning_rate", 1e-5, 2e-2, sampling="log", default=6e-3)  # Of the head; without decay, of all layers.
    hp.Float("rate_decay", 1.0, 10.0, default=1.0)  # From layer to layer; 2.6 in Howard and Ruder 2018, section 3.3.
    hp.Boolean("gradual_unfreezing", default=False)  # Unfreeze the LSTM first, the embedding only in a second fit.
    hp.Float("word_dropout", 0.0, 0.7, default=0.2)  # Share of the words that a training step doesn't see.
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # Of the features, before the head.
    return hp


def build_model(hp, name="classifier"):
    """From words (B, T) to the probability that the review is positive (B, 1)."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)  # (B, T), True = a word
    # Small, because the language model's softmax shares the matrix (Press and Wolf 2016); the LSTM reads unit scale.
    small = keras.initializers.RandomNormal(stddev=hp["embedding_size"] ** -0.5)
    embedding = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], small, name="embedding")
    vectors = layers.Rescaling(hp["embedding_size"] ** 0.5)(embedding(tokens))  # (B, T, embedding)
    vectors = layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1), name="vectors")(vectors)
    recurrent = layers.LSTM(hp["units"], return_sequences=True, return_state=True, name="recurrent")
    hidden_states, last_state, _ = recurrent(vectors, mask=mask)  # (B, T, units), (B, units)
    mean = layers.GlobalAveragePooling1D()(hidden_states, mask=mask)
    maximum = ops.max(ops.where(mask[..., None], hidden_states, -1.0), axis=1)  # States lie between -1 and 1.
    features = layers.Concatenate(name="features")([last_state, mean, maximum])  # (B, 3 units)
    hidden = layers.BatchNormalization(momentum=0.9)(features)  # They differ widely in scale.
    hidden = layers.Dropout(hp["dropout"])(hidden)
    model = keras.Model(tokens, layers.Dense(1, activation="sigmoid", name="positive")(hidden), name=name)
    model.compile(DiscriminativeAdam(hp["learning_rate"], 1.0, model), "binary_crossentropy", metrics=["accuracy"])
    return model


class DiscriminativeAdam(keras.optimizers.Adam):
    """Adam whose rate is `decay` times lower for the LSTM than for the head, and lower again for the embedding."""

    def __init__(self, learning_rate, decay, model):
        super().__init__(learning_rate, clipnorm=1.0)
        depths = {"recurrent": 1, "embedding": 2}
        layer_names = {variable.value.ref(): variable.path.split("/")[0] for variable in model.trainable_variables}
        self.factors = {reference: decay ** -depths.get(name, 0) for reference, name in layer_names.items()}

    def update_step(self, gradient, variable, learning_rate):  # Keras passes the variable's raw value.
        super().update_step(gradient, variable, learning_rate * self.factors[variable.ref()])


def build_language_model(hp, classifier):
    """The classifier's LSTM with a sampled softmax: logits (B, T, 1 + candidates) of the true word and of wrong ones.

    A batch shares its candidates. As these are drawn by word frequency, q(w), a logit estimates log p(w | words
    before) - log q(w), and `perplexity` adds log q(w) (Bengio, Senecal 2008, https://doi.org/10.1109/TNN.2007.912312).
    """
    following, wrong = (keras.Input((None,), dtype="int32", name=name) for name in ("following", "wrong"))
    layer = classifier.get_layer
    hidden_states, _, _ = layer("recurrent")(layer("vectors").output)  # (B, T, units)
    prediction = layers.Dense(hp["embedding_size"], name="prediction")(hidden_states)  # (B, T, embedding)
    candidates = ops.reshape(wrong, (-1,))  # (C,)
    true_logits = ops.sum(prediction * layer("embedding")(following), axis=-1, keepdims=True)  # (B, T, 1)
    wrong_logits = ops.matmul(prediction, ops.transpose(layer("embedding")(candidates)))  # (B, T, C)
    wrong_logits = ops.where(ops.equal(following[..., None], candidates), -1e9, wrong_logits)  # A hit is not wrong.
    logits = ops.concatenate([true_logits, wrong_logits], axis=-1)  # (B, T, 1 + C)
    model = keras.Model([classifier.input, following, wrong], logits, name="language-model")
    optimizer = keras.optimizers.Adam(hp["language_model_rate"], clipnorm=1.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=16)
    return model


@functools.cache
def read(split, examples):
    """The split's reviews (N,), bytes, as `clean` leaves them, and their labels (N,), 1 = positive."""
    reviews = tfds.load("imdb_reviews", split=SPLITS[split], as_supervised=True).take(examples)
    texts, labels = reviews.batch(examples).get_single_element()
    return clean(texts).numpy(), labels.numpy()


def clean(texts):
    """Reduces texts (N,) to what words are made of, a-z, 0-9 and ', and . , ! and ? as words of their own."""
    texts = tf.strings.regex_replace(tf.strings.lower(texts), r"<br />|[^a-z0-9'!?.,]", " ")
    return tf.strings.regex_replace(texts, r"[!?.,]", r" \0 ")


@functools.cache
def vectorizer(examples, size):
    """From clean texts to tokens: 0 = padding, 1 = unknown, 2 = the start, then the commonest words in training."""
    words, _, counts = tf.unique_with_counts(tf.strings.split(read("train", examples)[0]).values)
    commonest = words.numpy()[np.argsort(-counts.numpy(), kind="stable")[: size - 3]]
    known = ["<start>", *map(bytes.decode, commonest)]
    return layers.TextVectorization(standardize=None, vocabulary=known, ragged=True)


@functools.cache
def encoded(split, examples, vocabulary_size):
    """The tokens of the split's reviews, ragged (N, words of each) int32."""
    return tf.cast(vectorizer(examples, vocabulary_size)(b"<start> " + read(split, examples)[0]), tf.int32)


def cut_windows(hp, split):
    """The split's reviews as one text, in windows that overlap by one word: (N, window + 1)."""
    text = encoded(split, hp["examples"], hp["vocabulary_size"]).values.numpy()
    return np.lib.stride_tricks.sliding_window_view(text, hp["window"] + 1)[:: hp["window"]]


def load_text(hp):
    """Batches of words (B, T), the next ones (B, T), wrong ones (B, negatives); and 0 (B, T), the true word's index."""
    windows = cut_windows(hp, "train")
    wrong = np.random.default_rng(0).choice(windows.ravel(), (len(windows), hp["negatives"]))
    examples = (windows[:, :-1], windows[:, 1:], wrong), np.zeros((len(windows), hp["window"]), "int32")
    dataset = shuffle(tf.data.Dataset.from_tensor_slices(examples))
    return dataset.batch(hp["batch_size"], drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def load_data(hp, split, labels=None, reader=None):
    """Batches of words (B, T), int32, 0 = padding on the right, and labels (B,), 1 = positive.

    labels: keep this many reviews, the first in the official order; None keeps all.
    reader: a model that reads the words once and for all; its outputs replace them.
    """
    tokens = encoded(split, hp["examples"], hp["vocabulary_size"])[:labels, -hp["length"] :].to_tensor().numpy()
    inputs = tokens if reader is None else reader.predict(tokens, batch_size=256, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, read(split, hp["examples"])[1][:labels]))
    dataset = shuffle(dataset) if split == "train" else dataset
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed`; returns the models by name, the one fine-tuned with the most labels as "model"."""
    keras.utils.set_random_seed(seed)
    options = {"callbacks": [OneCycle(), *callbacks], "shuffle": False}  # Loading the data did.

    def fit(model, peak, batches, validation, rate_decay=1.0):
        model.compile(DiscriminativeAdam(peak, rate_decay, model), "binary_crossentropy", metrics=["accuracy"])
        model.fit(batches, validation_data=validation, **options)

    pretrained = build_model(hp)
    language_model = build_language_model(hp, pretrained)
    language_model.fit(load_text(hp), epochs=hp["language_model_epochs"], **options)
    models = [language_model]
    reader = keras.Model(pretrained.input, pretrained.get_layer("features").output)
    validation, validation_features = (load_data(hp, "validation", reader=each) for each in (None, reader))
    for labels in LABELS[: LABELS.index(hp["labels"]) + 1]:
        batches = load_data(hp, "train", labels)
        batches = batches.repeat().take(max(hp["least_steps"], hp["passes"] * len(batches)))  # Shuffled in every pass.
        scratch, frozen, fine_tuned = (build_model(hp, f"{strategy}-{labels}") for strategy in STRATEGIES)
        fit(scratch, hp["learning_rate"], batches, validation)

        frozen.set_weights(pretrained.get_weights())
        head = keras.Model(frozen.get_layer("features").output, frozen.output, name=frozen.name)
        features = load_data(hp, "train", labels, reader).repeat().take(hp["head_steps"])
        fit(head, hp["head_rate"], features, validation_features)

        fine_tuned.set_weights(frozen.get_weights())
        fine_tuned.get_layer("embedding").trainable = not hp["gradual_unfreezing"]
        fit(fine_tuned, hp["fine_tuning_rate"], batches, validation, hp["rate_decay"])
        if hp["gradual_unfreezing"]:
            fine_tuned.get_layer("embedding").trainable = True
            thawed = keras.Model(fine_tuned.input, fine_tuned.output, name=f"thawed-{labels}")
            fit(thawed, hp["fine_tuning_rate"], batches, validation, hp["rate_decay"])
        models += [scratch, frozen, fine_tuned]
    return {**{model.name: model for model in models[:-1]}, "model": fine_tuned}


def evaluate(models, hp, split="test"):
    """The share of reviews that each model and TF-IDF classify correctly, and the language model's perplexity."""
    classifiers = [model for name, model in models.items() if name != "language-model"]
    batches = load_data(hp, split)
    results = {each.name: each.evaluate(batches, verbose=0, return_dict=True)["accuracy"] for each in classifiers}
    for labels in LABELS[: LABELS.index(hp["labels"]) + 1]:
        results[f"tfidf-{labels}"] = tfidf(hp["examples"], labels).score(*read(split, hp["examples"]))
    own = {"accuracy": results[f"fine-tuned-{hp['labels']}"], "tfidf_accuracy": results[f"tfidf-{hp['labels']}"]}
    return {**own, "perplexity": perplexity(models["language-model"], hp, split), **results}


@functools.cache
def tfidf(examples, labels):
    """The baseline, fitted to the first `labels` of the training reviews."""
    features = feature_extraction.text.TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)
    classifier = pipeline.make_pipeline(features, linear_model.LogisticRegression(C=10.0, solver="liblinear"))
    return classifier.fit(*(each[:labels] for each in read("train", examples)))


def perplexity(language_model, hp, split):
    """exp(mean loss per word), over the whole vocabulary, on the first ten thousand words of a split."""
    counts = np.bincount(cut_windows(hp, "train").ravel(), minlength=hp["vocabulary_size"]).astype("float32") + 1
    prediction, embedding = (language_model.get_layer(name) for name in ("prediction", "embedding"))
    logits = ops.matmul(prediction.output, ops.transpose(embedding.embeddings)) + np.log(counts / counts.sum())
    model = keras.Model(language_model.inputs[0], logits)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    windows = cut_windows(hp, split)[: 10_000 // hp["window"]]
    return float(np.exp(model.evaluate(windows[:, :-1], windows[:, 1:], batch_size=16, verbose=0)))


def classify(model, texts, words):
    """Returns the probability that each of `texts` is positive, (N,); words: the lines of vocabulary.txt."""
    tokens = layers.TextVectorization(standardize=None, vocabulary=words)("<start> " + clean(texts))
    return model.predict(tokens, verbose=0)[:, 0]


def assets(hp):
    """The vocabulary, one word per line, as `classify` expects it."""
    known = vectorizer(hp["examples"], hp["vocabulary_size"])
    return {"vocabulary.txt": "\n".join(known.get_vocabulary(include_special_tokens=False))}


def show(models, hp):
    """Validation accuracy against the number of labels, for the three strategies and for TF-IDF."""
    results = evaluate(models, hp, "validation")
    counts = LABELS[: LABELS.index(hp["labels"]) + 1]
    picture, ax = new()
    for name in (*STRATEGIES, "tfidf"):
        ax.plot(list(map(str, counts)), [results[f"{name}-{count}"] for count in counts], marker="o", label=name)
    plain(ax).set(title=f"validation, perplexity {results['perplexity']:.0f}", xlabel="labels", ylabel="accuracy")
    ax.legend(frameon=False, loc="lower right")
    return {"accuracy_by_labels": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
