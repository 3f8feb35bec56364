"""An MLP predicts who survived the Titanic; repeated five-fold cross-validation shows how far to trust its accuracy.

Result    accuracy 0.8101 ± 0.0049 over 3 seeds, 0.9 minutes a run (0.9 CPU minutes) on 2 cores
Baseline  logistic regression on the same passengers; gradient boosting is measured too
Published 0.790, logistic regression on five columns, tested on 262 passengers (two points are within the spread):
          https://scikit-learn.org/0.24/auto_examples/compose/plot_column_transformer_mixed_types.html
Paper     Stone: Cross-Validatory Choice and Assessment of Statistical Predictions, 1974,
          https://doi.org/10.1111/j.2517-6161.1974.tb00994.x. The columns `boat` and `body` are left out: they were
          filled in after the sinking and give the answer away.
Answers   How far can one trust a single split? Not far: on 25 random splits of the same 1,000 passengers, the accuracy
          of the MLP ranges from 75.5% to 85.0%, with a standard deviation of 2.7%.
          What do folds add? Five folds test every passenger once. The accuracy on a single fold has a standard
          deviation of 2.6%, but the mean of five, 80.5%, one of only 0.6% when the passengers are divided into folds
          anew, and would vary more with other passengers.
          Does an MLP beat logistic regression and gradient boosting? Over all folds, the MLP has 80.5%, gradient
          boosting 80.3% and logistic regression 78.6%; on the test split, 81.0%, 79.0% and 80.6%.
          Would more passengers help? From 100 to 800 passengers in training, the MLP goes from 77.7% to 80.5%, gradient
          boosting from 74.9% to 80.3%, and logistic regression from 77.3% to 78.6%.

    python -m recipes.basics.cross_validation
    python -m recipes.basics.cross_validation --try "class=1 sex=female age=29" "class=3 sex=male port=Southampton"
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import ensemble, impute, linear_model, model_selection, pipeline, preprocessing

from common.callbacks import OneCycle
from common.data import shuffle
from common.plots import TRAINING, new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "logistic regression", "metric": "logistic_accuracy"},
    "published": {"value": 0.790, "source": "scikit-learn's example, one split"},
    "data": ["titanic"],
}
TINY = {"examples": 40, "epochs": 2, "folds": 2, "repeats": 1}
PINNED = ("folds", "repeats")
SPLITS = {"train": "train[:800]", "validation": "train[800:1000]", "test": "train[1000:]"}

# "sibsp" counts siblings and spouses on board, "parch" parents and children.
NUMBERS = ("age", "fare", "sibsp", "parch")
NAMES = {"class": ("1", "2", "3"), "sex": ("male", "female"), "port": ("Cherbourg", "Queenstown", "Southampton")}
METHODS = {"MLP": "#c2410c", "boosting": "#0f766e", "logistic": "#1d4ed8"}
SIZES = (400, 200, 100, 50)  # Passengers to train on in the learning curve, in addition to all outside the fold.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 40, 1_000, default=1_000)  # Passengers read from each split, at most.
    hp.Int("epochs", 1, 200, default=30)
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)
    hp.Int("units", 4, 128, step=4, default=32)
    hp.Float("dropout", 0.0, 0.7, default=0.2)
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-2)
    hp.Int("folds", 2, 10, default=5)
    hp.Int("repeats", 1, 20, default=5)  # How often the passengers are divided into folds anew.
    return hp


def build_model(hp):
    """An MLP with two hidden layers: passengers (B, 7), NaN where unknown, to the probability of survival (B, 1)."""
    passengers = keras.Input((7,), name="passengers")
    standardized = layers.Normalization(name="standardize")(passengers)
    unknown = ops.isnan(standardized)
    hidden = ops.where(unknown, 0.0, standardized)  # 0 is the mean of the training passengers.
    hidden = layers.Concatenate()([hidden, ops.cast(unknown, "float32")])  # (B, 14)
    hidden = layers.Dense(hp["units"], activation="relu", name="hidden_1")(hidden)
    hidden = layers.Dropout(hp["dropout"])(hidden)
    hidden = layers.Dense(hp["units"], activation="relu", name="hidden_2")(hidden)
    hidden = layers.Dropout(hp["dropout"])(hidden)
    probability = layers.Dense(1, activation="sigmoid", name="probability")(hidden)
    model = keras.Model(passengers, probability, name="cross_validation")

    model.compile(
        optimizer=keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"]),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=10,
    )
    return model


def read(hp, split):
    """Passengers (N, 7), NUMBERS and NAMES, NaN where unknown, and whether they survived (N,)."""
    rows = tfds.load("titanic", split=SPLITS[split]).take(hp["examples"]).batch(hp["examples"]).get_single_element()
    port = np.where(rows["embarked"] == 3, -1, rows["embarked"])  # 3 is an unknown port, -1 an unknown number.
    columns = [*(rows[name] for name in NUMBERS), rows["pclass"], rows["sex"], port]
    passengers = np.stack(columns, axis=1).astype("float32")
    return np.where(passengers < 0, np.nan, passengers), rows["survived"].numpy()


def load_data(hp, split):
    """Batches of passengers (B, 7), and whether they survived (B,)."""
    dataset = tf.data.Dataset.from_tensor_slices(read(hp, split))
    if split == "train":
        dataset = shuffle(dataset)
    return dataset.batch(hp["batch_size"])


def standardizing_model(hp, passengers):
    """The model before training; it standardizes by the means and variances of these passengers, and of no others."""
    model = build_model(hp)
    means = np.nanmean(passengers, axis=0)
    model.get_layer("standardize").adapt(np.where(np.isnan(passengers), means, passengers))
    return model


def train(hp, seed, callbacks=()):
    """Trains the MLP from `seed` on a single split and returns it."""
    keras.utils.set_random_seed(seed)
    passengers, _ = read(hp, "train")
    model = standardizing_model(hp, passengers)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def survivors(hp, method, known, survived, unseen):
    """Which unseen passengers survive (N,), according to one of METHODS, trained from a fixed seed on the known ones.

    What replaces missing values is computed from the known passengers alone, so that nothing leaks into the fold.
    """
    if method == "MLP":
        keras.utils.set_random_seed(0)
        model = standardizing_model(hp, known)
        dataset = tf.data.Dataset.from_tensor_slices((known, survived)).shuffle(len(known), seed=0)
        # All epochs are fitted as a single one, which saves time.
        epochs = dataset.batch(hp["batch_size"]).repeat(hp["epochs"])
        model.fit(epochs, callbacks=[OneCycle()], shuffle=False, verbose=0)
        return ops.convert_to_numpy(model(unseen))[:, 0] > 0.5
    if method == "boosting":
        classifier = ensemble.GradientBoostingClassifier(n_estimators=60, subsample=0.7, random_state=0)
    else:
        classifier = linear_model.LogisticRegression()
    imputer = impute.SimpleImputer(strategy="median", add_indicator=True)
    model = pipeline.make_pipeline(imputer, preprocessing.StandardScaler(), classifier)
    return model.fit(known, survived).predict(unseen)


@functools.cache
def cross_validate(hp, method):
    """Accuracies of one of METHODS on passengers that it wasn't trained on; they don't depend on the run's seed.

    Returns: those on every fold (repeats, folds), those on as many single splits (repeats * folds,), and the learning
    curve {number of passengers to train on: mean over all folds}.
    """
    parts = [read(hp, "train"), read(hp, "validation")]
    passengers, survived = (np.concatenate(each) for each in zip(*parts))

    def accuracies(pairs):
        predicted = ((survivors(hp, method, passengers[a], survived[a], passengers[b]), b) for a, b in pairs)
        return np.array([np.mean(answers == survived[unseen]) for answers, unseen in predicted])

    count, repeats = hp["folds"], hp["repeats"]
    folds = list(model_selection.RepeatedKFold(n_splits=count, n_repeats=repeats, random_state=0).split(passengers))
    splits = model_selection.ShuffleSplit(count * repeats, test_size=1 / count, random_state=0).split(passengers)
    on_folds = accuracies(folds).reshape(repeats, count)
    generator = np.random.default_rng(0)
    folds = [(generator.permutation(known), unseen) for known, unseen in folds]
    whole = len(folds[0][0])
    curve = {whole: on_folds.mean()}
    for size in SIZES:
        if size < whole:
            curve[size] = accuracies((known[:size], unseen) for known, unseen in folds).mean()
    return on_folds, accuracies(splits), curve


def evaluate(model, hp):
    """Accuracies on test after training on a single split, and what folds and single splits say of the methods."""
    (known, known_survived), (unseen, survived) = read(hp, "train"), read(hp, "test")
    results = {"accuracy": np.mean((model.predict(unseen, verbose=0)[:, 0] > 0.5) == survived)}
    for method in ("boosting", "logistic"):
        results[f"{method}_accuracy"] = np.mean(survivors(hp, method, known, known_survived, unseen) == survived)
        results[f"{method}-at-least-as-good"] = np.mean(cross_validate(hp, method)[1] >= cross_validate(hp, "MLP")[1])
    for method in METHODS:
        on_folds, on_splits, curve = cross_validate(hp, method)
        results |= {
            f"{method}-mean": on_folds.mean(),
            f"{method}-mean-sd": np.std(on_folds.mean(axis=1), ddof=min(1, len(on_folds) - 1)),
            f"{method}-fold-sd": on_folds.std(ddof=1),
            f"{method}-split-sd": on_splits.std(ddof=1),
            f"{method}-lowest-split": on_splits.min(),
            f"{method}-highest-split": on_splits.max(),
            **{f"{method}-with-{size}": accuracy for size, accuracy in curve.items()},
        }
    return results


def predict(model, assets, inputs):
    """Says who survives: each input describes a passenger, as far as is known, such as "class=1 sex=female age=29".

    There are no assets. Raises ValueError for words that describe no passenger.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["class=1 sex=female age=29"])
    """
    probabilities = model.predict(np.array([parse(text) for text in inputs], "float32"), verbose=0)[:, 0]
    return [f"{'survives' if each > 0.5 else 'dies'} (probability of survival {each:.2f})" for each in probabilities]


def parse(text):
    """A passenger as in `read`, (7,)."""
    row = dict.fromkeys([*NUMBERS, *NAMES], np.nan)
    for word in text.split():
        column, _, value = word.partition("=")
        if value in NAMES.get(column, ()):
            row[column] = NAMES[column].index(value)
        elif column in NUMBERS and value.replace(".", "", 1).isdecimal():
            row[column] = float(value)
        else:
            raise ValueError(f'{word!r} is not understood; a passenger is "class=1 sex=female age=29 port=Cherbourg"')
    return list(row.values())


def show(model, hp):
    """Accuracies of three methods on single splits, and their means over the folds; their learning curves."""
    picture, (left, right) = new(9, 4.2, columns=2, width_ratios=[3, 2])
    for place, (method, colour) in enumerate(METHODS.items()):
        on_folds, on_splits, curve = cross_validate(hp, method)
        spread = np.linspace(-0.1, 0.1, on_splits.size)  # So that equal accuracies do not cover each other.
        left.plot(100 * on_splits, place - 0.15 + spread, "o", color=TRAINING)
        left.plot(100 * on_folds.mean(axis=1), np.full(len(on_folds), place + 0.2), "o", color=colour)
        right.plot(list(curve), [100 * accuracy for accuracy in curve.values()], "o-", color=colour, label=method)
    left.set_yticks(range(len(METHODS)), list(METHODS))
    left.invert_yaxis()
    title = f"{on_splits.size} single splits (grey), {len(on_folds)} means over {hp['folds']} folds"
    plain(left).set(title=title, xlabel="accuracy on held-out passengers (%)")
    plain(right).set(
        title="Learning curves",
        xlabel="passengers to train on",
        ylabel="accuracy on held-out passengers (%)",
        xscale="log",
    )
    right.set_xticks(list(curve), list(curve))
    right.minorticks_off()
    right.legend(frameon=False)
    return {"folds": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
