"""An LSTM that has learned to predict the next word of film reviews needs fewer labels to tell praise from panning.

Result    accuracy 0.875 with one seed, 21.4 minutes a run (14.9 of CPU) on 1 core
Baseline  TF-IDF of words and pairs of words with logistic regression, on the same labelled reviews
Anchor    0.9276 with 25,000 labels, SA-LSTM of Dai and Le: 1,024 units, pretrained on three times the text, to repeat it
Paper     Dai, Le: Semi-supervised Sequence Learning, 2015, https://arxiv.org/abs/1511.01432; Howard, Ruder: Universal
          Language Model Fine-tuning for Text Classification, 2018, https://arxiv.org/abs/1801.06146, for pooled states,
          discriminative rates and gradual unfreezing. Here one small layer reads the text of the training reviews
          alone, and learns from a sampled softmax.
Answers   Up to how many labels does a pretrained language model help? What does fine-tuning add to frozen features?
          How many labels is pretraining worth? Do rates that shrink with depth help, and thawing layer by layer?

    python -m recipes.recurrent.pretrained_language_model
    python -m recipes.recurrent.pretrained_language_model --set labels=500 rate_decay=2.6
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from common import data, plots, runner, training

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "tfidf_accuracy"},
    "anchor": {"value": 0.9276, "source": "Dai and Le 2015, SA-LSTM, three times the text"},
    "data": ["imdb_reviews"],
    "tolerance": 0.01,  # For `verify`, since one seed tells no spread.
}
TINY = {
    "examples": 128,
    "labels": 100,
    "language_model_epochs": 2,
    "least_steps": 2,
    "head_steps": 10,
    "length": 50,
    "window": 16,
}
VARIANTS = {
    "rates that shrink with depth": {"rate_decay": 2.6},
    "gradual unfreezing": {"gradual_unfreezing": True},
}
# Ten thousand reviews tell twelve accuracies well enough, in less than half the time of all.
SPLITS = {"train": "train[:22500]", "validation": "train[22500:]", "test": "test[:10000]"}
LABELS = (100, 500, 2500, 22_500)


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 22_500, default=22_500)  # Read from each split at most.
    hp.Choice("labels", LABELS, default=22_500)  # At most; all smaller counts are tried too.
    hp.Int("vocabulary_size", 5_000, 50_000, step=5_000, default=20_000)  # All other words are one, the unknown.
    hp.Choice("embedding_size", [32, 64, 128, 256], default=128)
    hp.Choice("units", [32, 64, 128, 256, 512], default=128)
    hp.Int("window", 16, 256, step=16, default=64)  # Words that the language model reads at a time.
    hp.Int("negatives", 1, 32, default=8)  # A window brings so many wrong words, which its whole batch shares.
    hp.Int("language_model_epochs", 1, 10, default=2)
    hp.Float("language_model_rate", 1e-4, 2e-2, sampling="log", default=4e-3)
    hp.Int("length", 50, 400, step=10, default=160)  # Of a longer review the classifier reads the last words.
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)
    hp.Int("passes", 1, 10, default=2)  # Over the labelled reviews, for fine-tuning and from scratch alike.
    hp.Int("least_steps", 2, 1000, default=100)  # With few labels that takes more passes.
    hp.Int("head_steps", 10, 5000, default=700)  # Of the head alone, over features that were computed once.
    hp.Float("learning_rate", 1e-4, 2e-2, sampling="log", default=6e-3)  # Of whatever starts from random weights.
    hp.Float("head_rate", 1e-4, 1e-1, sampling="log", default=3e-3)
    hp.Float("fine_tuning_rate", 1e-5, 2e-2, sampling="log", default=6e-3)  # Of the head, and of all with no decay.
    hp.Float("rate_decay", 1.0, 10.0, default=1.0)  # From layer to layer; 2.6 in Howard and Ruder 2018, section 3.3.
    hp.Boolean("gradual_unfreezing", default=False)  # Thaw the LSTM first, the embedding in the second half only.
    hp.Float("word_dropout", 0.0, 0.7, default=0.2)  # Share of the words that a training step doesn't see.
    hp.Float("dropout", 0.0, 0.7, default=0.4)  # Of the features, before the head.
    return hp


@functools.cache
def read(split, examples):
    """A split's texts (N,) of bytes and labels (N,), 1 = praise: read once for all fits of a run."""
    batch = data.load("imdb_reviews", SPLITS[split], examples).batch(examples).get_single_element()
    return batch["text"].numpy(), batch["label"].numpy()


def split_words(texts):
    """Splits texts (N,) into words (N, words of each): lower case, digits, ', and each . , ! and ? as a word."""
    texts = tf.strings.regex_replace(tf.strings.lower(texts), r"<br />|[^a-z0-9'!?.,]", " ")
    return tf.strings.split(tf.strings.regex_replace(texts, r"[!?.,]", r" \0 "))


@functools.cache
def vocabulary(examples, size):
    """The commonest words of the training reviews, a list of str: word i has the number i + 3."""
    words, _, counts = tf.unique_with_counts(split_words(read("train", examples)[0]).values)
    commonest = np.argsort(-counts.numpy(), kind="stable")[: size - 3]
    return [word.decode() for word in words.numpy()[commonest]]


def encode(texts, words):
    """Turns texts (N,) into numbers, ragged (N, words of each) int32: 0 is padding, 1 an unknown word, 2 a beginning.

    words: the lines of vocabulary.txt.
    """
    numbers = tf.range(3, len(words) + 3)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, numbers), default_value=1)
    tokens = tf.ragged.map_flat_values(table.lookup, split_words(texts))
    return tf.concat([tf.fill((tokens.nrows(), 1), 2), tokens], axis=1)


@functools.cache
def encoded(split, examples, vocabulary_size):
    """A split's reviews as numbers, ragged (N, words of each), int32."""
    return encode(read(split, examples)[0], vocabulary(examples, vocabulary_size))


def cut_windows(hp, split):
    """The split's reviews as one text, in windows that overlap by a word: (N, window + 1)."""
    text = encoded(split, hp["examples"], hp["vocabulary_size"]).values.numpy()
    starts = np.arange(0, len(text) - hp["window"], hp["window"])
    return text[starts[:, None] + np.arange(hp["window"] + 1)]


def load_text(hp):
    """Batches for the language model: words (B, T), those that follow (B, T), wrong ones (B, negatives); and zeros.

    Wrong words are drawn as often as they occur: see `build_language_model`. The true word is the first of all
    candidates, hence the zeros (B, T).
    """
    windows = cut_windows(hp, "train")
    wrong = np.random.default_rng(0).choice(windows.ravel(), (len(windows), hp["negatives"]))
    inputs = (windows[:, :-1], windows[:, 1:], wrong)
    examples = tf.data.Dataset.from_tensor_slices((inputs, np.zeros((len(windows), hp["window"]), "int32")))
    return data.shuffle(examples).batch(hp["batch_size"], drop_remainder=True).prefetch(2)


def last_words(hp, split, labels=None):
    """The split's reviews, or the first `labels` of them: words (N, T), 0 = padding on the right; labels (N,)."""
    tokens = encoded(split, hp["examples"], hp["vocabulary_size"])[:labels, -hp["length"] :]
    return tokens.to_tensor().numpy(), read(split, hp["examples"])[1][:labels]


def load_data(hp, split, labels=None):
    """Batches of words (B, T), int32, 0 = padding on the right, and labels (B,), 1 = praise.

    labels: keep so many reviews, the first in the official order; None keeps all.
    """
    dataset = tf.data.Dataset.from_tensor_slices(last_words(hp, split, labels))
    if split == "train":
        dataset = data.shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(2)


def word_vectors(hp, embedding, tokens):
    """Words (B, T) to what the LSTM reads (B, T, embedding), at unit scale; in training some words are missing."""
    vectors = layers.Rescaling(hp["embedding_size"] ** 0.5)(embedding(tokens))
    return layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1))(vectors)


def build_reader(hp):
    """From words (B, T) to features of the text (B, 3 units): the LSTM's last state, their mean and their maximum."""
    units = hp["units"]
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)  # (B, T), True = a word
    real = ops.expand_dims(mask, -1)  # (B, T, 1)
    # Small, because the language model's softmax shares the matrix (Press and Wolf 2016).
    small = keras.initializers.RandomNormal(stddev=hp["embedding_size"] ** -0.5)
    embedding = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], small, name="embedding")
    recurrent = layers.LSTM(units, return_sequences=True, return_state=True, name="recurrent")
    # (B, T, units), (B, units)
    hidden_states, last_state, _ = recurrent(word_vectors(hp, embedding, tokens), mask=mask)
    count = ops.sum(ops.cast(real, "float32"), axis=1)
    mean = ops.sum(ops.where(real, hidden_states, 0.0), axis=1) / count
    maximum = ops.max(ops.where(real, hidden_states, -1.0), axis=1)  # States lie between -1 and 1.
    return keras.Model(tokens, ops.concatenate([last_state, mean, maximum], axis=-1), name="reader")


def build_head(hp):
    """From features (B, 3 units) to the probability of praise (B, 1)."""
    features = keras.Input((3 * hp["units"],), name="features")
    hidden = layers.BatchNormalization(momentum=0.9)(features)  # They differ much in scale.
    hidden = layers.Dropout(hp["dropout"])(hidden)
    return keras.Model(features, layers.Dense(1, activation="sigmoid", name="praise")(hidden), name="head")


def build_model(hp):
    """The classifier at random weights, compiled: words (B, T) to the probability of praise (B, 1)."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    model = keras.Model(tokens, build_head(hp)(build_reader(hp)(tokens)), name="classifier")
    compile_model(model, hp["learning_rate"], steps=1)
    return model


class DiscriminativeAdam(keras.optimizers.Adam):
    """Adam with a rate of its own for every variable (Howard and Ruder 2018, section 3.3).

    factors: what a variable's rate is multiplied with, by its `value.ref()`, since Keras hands over the bare values.
    """

    def __init__(self, learning_rate, factors):
        super().__init__(learning_rate, clipnorm=1.0)
        self.factors = factors

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self.factors[variable.ref()])


def compile_model(model, learning_rate, steps, rate_decay=1.0):
    """Sets loss and optimizer: a tenth of the steps warms up to `learning_rate`, a cosine leads back to zero.

    rate_decay: how much lower the LSTM's rate is than the head's, and the embedding's than the LSTM's.
    """
    warm_up = -(-steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    depths = {"praise": 0, "recurrent": 1, "embedding": 2}
    factors = {
        variable.value.ref(): rate_decay ** -depths.get(variable.path.split("/")[0], 0)
        for variable in model.trainable_variables
    }
    model.compile(DiscriminativeAdam(schedule, factors), "binary_crossentropy", metrics=["accuracy"])


def build_language_model(hp, reader):
    """The reader's LSTM with a sampled softmax: logits (B, T, 1 + candidates) of the true word and of the wrong ones.

    The candidates of all windows serve the whole batch. They are drawn as often as words occur, q(w), which makes a
    logit an estimate of log p(w | words before) - log q(w): nothing is to be corrected in training, and `perplexity`
    adds log q(w) (Bengio and Senecal 2008, https://doi.org/10.1109/TNN.2007.912312).
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    following = keras.Input((None,), dtype="int32", name="following")
    wrong = keras.Input((None,), dtype="int32", name="wrong")
    embedding = reader.get_layer("embedding")
    hidden_states, _, _ = reader.get_layer("recurrent")(word_vectors(hp, embedding, tokens))  # (B, T, units)
    prediction = layers.Dense(hp["embedding_size"], name="prediction")(hidden_states)  # (B, T, embedding)
    candidates = ops.reshape(wrong, (-1,))  # (C,)
    true_logits = ops.sum(prediction * embedding(following), axis=-1, keepdims=True)  # (B, T, 1)
    wrong_logits = ops.matmul(prediction, ops.transpose(embedding(candidates)))  # (B, T, C)
    # A candidate that happens to be the true word is none.
    hit = ops.equal(ops.expand_dims(following, -1), candidates)
    wrong_logits = ops.where(hit, -1e9, wrong_logits)
    logits = ops.concatenate([true_logits, wrong_logits], axis=-1)
    return keras.Model([tokens, following, wrong], logits, name="language_model")


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed`; returns the models by name, first the one fine-tuned with most labels."""
    keras.utils.set_random_seed(seed)

    def fit(model, stage, batches, examples, validation=None, epochs=1):
        options = {"validation_data": validation, "epochs": epochs, "verbose": 0, "shuffle": False}
        model.fit(batches, callbacks=callbacks(stage, examples=examples), **options)
        return model

    reader = build_reader(hp)
    language_model = build_language_model(hp, reader)
    text = load_text(hp)
    steps = hp["language_model_epochs"] * len(text)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - steps // 10), warmup_target=hp["language_model_rate"], warmup_steps=steps // 10
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    language_model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss, steps_per_execution=16)
    words = len(text) * hp["batch_size"] * hp["window"]
    fit(language_model, "language-model", text, words, epochs=hp["language_model_epochs"])
    models = {"language-model": language_model}

    validation = load_data(hp, "validation")
    tokens, verdicts = last_words(hp, "train", hp["labels"])
    features = reader.predict(tokens, batch_size=256, verbose=0)
    validation_tokens, validation_verdicts = last_words(hp, "validation")
    validation_features = reader.predict(validation_tokens, batch_size=256, verbose=0), validation_verdicts
    for labels in (count for count in LABELS if count <= hp["labels"]):
        batches = load_data(hp, "train", labels)
        steps = max(hp["least_steps"], hp["passes"] * len(batches))
        examples = steps * min(labels, len(tokens)) // len(batches)
        batches = batches.repeat().take(steps)  # Shuffled anew in every pass.

        scratch = build_model(hp)
        compile_model(scratch, hp["learning_rate"], steps)
        fit(scratch, f"scratch-{labels}", batches, examples, validation)

        frozen = build_model(hp)
        frozen.get_layer("reader").set_weights(reader.get_weights())
        head = build_head(hp)
        head_batches = tf.data.Dataset.from_tensor_slices((features[:labels], verdicts[:labels]))
        head_batches = data.shuffle(head_batches).batch(hp["batch_size"]).repeat().take(hp["head_steps"])
        compile_model(head, hp["head_rate"], hp["head_steps"])
        head_examples = hp["head_steps"] * examples // steps
        fit(head, f"frozen-{labels}", head_batches, head_examples, validation_features)
        frozen.get_layer("head").set_weights(head.get_weights())

        fine_tuned = build_model(hp)
        fine_tuned.set_weights(frozen.get_weights())
        embedding = fine_tuned.get_layer("reader").get_layer("embedding")
        embedding.trainable = not hp["gradual_unfreezing"]
        compile_model(fine_tuned, hp["fine_tuning_rate"], steps, hp["rate_decay"])
        fit(fine_tuned, f"fine-tuned-{labels}", batches, examples, validation)
        if hp["gradual_unfreezing"]:
            embedding.trainable = True
            compile_model(fine_tuned, hp["fine_tuning_rate"], steps, hp["rate_decay"])
            fit(fine_tuned, f"thawed-{labels}", batches, examples, validation)
        models |= {f"scratch-{labels}": scratch, f"frozen-{labels}": frozen, f"fine-tuned-{labels}": fine_tuned}
    return dict(reversed(models.items()))


def accuracies(models, hp, split):
    """The share of the split's reviews that every classifier gets right, by name; TF-IDF's too."""
    batches = load_data(hp, split)
    results = {
        name: model.evaluate(batches, verbose=0, return_dict=True)["accuracy"]
        for name, model in models.items()
        if name != "language-model"
    }
    known, verdicts = read("train", hp["examples"])
    texts, expected = read(split, hp["examples"])
    known, texts = (tf.strings.reduce_join(split_words(each), axis=1, separator=" ").numpy() for each in (known, texts))
    for labels in (count for count in LABELS if count <= hp["labels"]):
        vectorizer = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)
        features = vectorizer.fit_transform(known[:labels])
        baseline = LogisticRegression(C=10.0, solver="liblinear").fit(features, verdicts[:labels])
        results[f"tfidf-{labels}"] = baseline.score(vectorizer.transform(texts), expected)
    return results


def perplexity(language_model, hp, split, words=10_000):
    """exp(mean loss of a word), over all of the vocabulary, on the first words of a split."""
    counts = np.bincount(cut_windows(hp, "train").ravel(), minlength=hp["vocabulary_size"]) + 1.0
    windows = cut_windows(hp, split)[: max(1, words // hp["window"])]
    matrix = language_model.get_layer("embedding").embeddings
    predict = keras.Model(language_model.inputs[0], language_model.get_layer("prediction").output)
    losses = [
        keras.losses.sparse_categorical_crossentropy(
            each[:, 1:], predict(each[:, :-1]) @ ops.transpose(matrix) + np.log(counts / counts.sum()), from_logits=True
        )
        for each in np.array_split(windows, -(-len(windows) // 16))
    ]
    return float(np.exp(np.mean(np.concatenate(losses))))


def evaluate(models, hp):
    """Test-set figures: the share of reviews that every model and TF-IDF get right, and the language model's perplexity."""
    most = hp["labels"]
    results = accuracies(models, hp, "test")
    return {
        "accuracy": results[f"fine-tuned-{most}"],
        "tfidf_accuracy": results[f"tfidf-{most}"],
        "perplexity": perplexity(models["language-model"], hp, "test"),
        **results,
    }


def assets(hp):
    """The vocabulary, one word a line, as `classify` wants it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp["examples"], hp["vocabulary_size"]))}


def classify(model, texts, words):
    """Returns the probability of praise for each of `texts`, (N,); words: the lines of vocabulary.txt."""
    return model.predict(encode(texts, words).to_tensor(), verbose=0)[:, 0]


def show(models, hp):
    """Validation accuracy against the number of labels, for the three ways to learn from them and for TF-IDF."""
    results = accuracies(models, hp, "validation")
    counts = [count for count in LABELS if count <= hp["labels"]]
    picture, ax = plots.new()
    table = "labels      " + "".join(f"{labels:8,}" for labels in counts)
    styles = {"fine-tuned": (plots.VALIDATION, "o-"), "frozen": (plots.VALIDATION, "o:")}
    styles |= {"scratch": (plots.TRAINING, "o-"), "tfidf": (plots.TRAINING, "o:")}
    names = {"fine-tuned": "pretrained, fine-tuned", "frozen": "pretrained, frozen", "scratch": "LSTM from scratch"}
    for strategy, (colour, line) in styles.items():
        curve = [results[f"{strategy}-{labels}"] for labels in counts]
        ax.plot(counts, curve, line, color=colour, label=names.get(strategy, "TF-IDF, logistic regression"))
        table += f"\n{strategy:12}" + "".join(f"{accuracy:8.4f}" for accuracy in curve)
    plots.plain(ax).set(xscale="log", xlabel="labelled reviews", ylabel="validation accuracy")
    ax.set_xticks(counts, [f"{labels:,}" for labels in counts])
    ax.minorticks_off()
    ax.legend(frameon=False, loc="lower right")
    return {"accuracy_by_labels": picture, "accuracies": table}


if __name__ == "__main__":
    runner.run(__spec__.name)
