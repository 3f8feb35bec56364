"""A scikit-learn decision tree reads the digits of mnist at 7 x 7 pixels.

Result    not measured yet
Baseline  always the commonest digit
Published nothing: a test fixture
Paper     Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984
Answers   Can a recipe train something that is not a Keras model and has no epochs?

    python -m recipes.kinds.counting
"""

import numpy as np
import tensorflow_datasets as tfds
from sklearn import tree

from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"metric": "majority_accuracy", "name": "always the commonest digit"},
    "published": {"value": 0.8, "source": "a fixture of the tests: nobody published it"},
    "data": ["mnist"],
}
TINY = {"examples": 150, "leaves": 20}
VARIANTS = {"few leaves": {"leaves": 20}}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 55_000, default=5000)
    hp.Int("leaves", 10, 1000, step=10, default=200)
    hp.Choice("criterion", ["gini", "entropy"], default="gini")
    return hp


def load_data(hp, split):
    """Mean ink of 7 x 7 squares (N, 49), whole numbers up to 255, and digits (N,)."""
    dataset = tfds.load("mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    images, digits = next(dataset.batch(hp["examples"]).as_numpy_iterator())
    return images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).round().reshape(-1, 49), digits


def train(hp, seed, callbacks=()):
    """Grows the tree from `seed` and returns it; there are no epochs that a callback could see."""
    model = tree.DecisionTreeClassifier(max_leaf_nodes=hp["leaves"], criterion=hp["criterion"], random_state=seed)
    return model.fit(*load_data(hp, "train"))


def validate(model, hp):
    """What a search compares."""
    return {"val_accuracy": model.score(*load_data(hp, "validation"))}


def evaluate(model, hp):
    """The share of test digits that are read correctly, and the baseline's."""
    _, known = load_data(hp, "train")
    squares, digits = load_data(hp, "test")
    return {
        "accuracy": model.score(squares, digits),
        "majority_accuracy": float(np.mean(digits == np.bincount(known).argmax())),
    }


def save(model, directory):
    """Writes the tree as text; its thresholds lie halfway between whole numbers, so one decimal is exact."""
    names = [f"square_{row}_{column}" for row in range(7) for column in range(7)]
    text = tree.export_text(model, feature_names=names, max_depth=model.get_depth(), decimals=1)
    (directory / "tree.txt").write_text(text, encoding="utf-8")


def show(model, hp):
    """Which squares the tree uses."""
    return {
        "importance": image_grid([model.feature_importances_.reshape(7, 7)], ["importance"], columns=1),
        "size": f"{model.get_n_leaves()} leaves, {model.get_depth()} questions at most",
    }


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
