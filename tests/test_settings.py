"""`--set` and hyperparameters."""

import ast
import inspect
import textwrap

import keras_tuner
import pytest

from common.cookbook import errors, results, settings


def configure(hp):
    """What `--set` and `--help` read."""
    hp.Int("units", 32, 128, step=32, default=64)  # Per direction.
    # Above its declaration,
    # on two lines.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    hp.Choice("cell", ["lstm", "gru"], default="gru")
    hp.Choice("batch_size", [16, 32], default=32)
    hp.Boolean("mask", default=True)
    hp.Float("dropout", 0.0, 0.6, step=0.2, default=0.2)
    hp.Float("shift", 0.0, 0.5, default=0.1)
    hp.Int("turns", 1, 7, step=2, default=3)
    hp.Float("noise", 0, 1, default=0)
    return hp


def test_values_have_their_hyperparameter_s_type():
    given = [
        "units=96",
        "learning_rate=0.002",
        "cell=lstm",
        "mask=False",
        "batch_size=16",
        "dropout=0.6",
        "shift=0.123",
        "noise=0.5",
        "turns=1",
    ]
    values = settings.parse(configure, given)
    chosen = {"units": 96, "learning_rate": 0.002, "cell": "lstm", "mask": False, "batch_size": 16}
    assert values == {**chosen, "dropout": 0.6, "shift": 0.123, "noise": 0.5, "turns": 1}
    assert [type(value) for value in values.values()] == [int, float, str, bool, int, float, float, float, int]
    hp = settings.build(configure, values)
    assert {name: hp[name] for name in values} == values
    assert settings.parse(configure, results.assignments(values).split()) == values


@pytest.mark.parametrize(
    "assignment, told",
    [
        ("unit=64", "units, learning_rate, cell, batch_size, mask, dropout, shift, turns, noise"),
        ("units=100", "32..128 in steps of 32"),
        ("units=256", "32..128"),
        ("units=many", "32..128"),
        ("units=64.5", "32..128"),
        ("learning_rate=nan", "0.0001..0.01"),
        ("learning_rate=inf", "0.0001..0.01"),
        ("dropout=0.3", "0.0..0.6 in steps of 0.2"),
        ("turns=2", "1..7 in steps of 2"),
        ("learning_rate=1", "0.0001..0.01"),
        ("cell=rnn", "lstm|gru"),
        ("batch_size=17", "16|32"),
        ("mask=maybe", "true|false"),
        ("units", "units= is not allowed: units takes 32..128"),
    ],
)
def test_mistakes_are_told_in_one_line_with_what_is_allowed(assignment, told):
    with pytest.raises(errors.RecipeError, match="^[^\n]*$") as error:
        settings.parse(configure, [assignment])
    assert told in str(error.value)


def test_the_listing_has_default_range_scale_and_remark_of_every_hyperparameter():
    source = textwrap.dedent(inspect.getsource(configure))
    lines = settings.listing(ast.parse(source), source).splitlines()
    assert lines[0] == "  units          64        32..128 in steps of 32"
    assert lines[1] == "      Per direction."
    assert lines[2] == "  learning_rate  0.001     0.0001..0.01, logarithmic"
    assert lines[3] == "      Above its declaration, on two lines."
    assert len(lines) == 2 + len(configure(keras_tuner.HyperParameters()).space)


def test_the_listing_says_of_every_recipe_what_keras_tuner_says(entry, recipe):
    """`--help` reads `configure` without KerasTuner, which would import TensorFlow."""
    declared = settings.declarations(entry.tree)
    space = recipe.configure(keras_tuner.HyperParameters()).space
    assert [(each.name, each.default, settings.allowed(each)) for each in declared] == [
        (each.name, each.default, settings.allowed(each)) for each in space
    ]
    assert set(settings.remarks(entry.path.read_text(encoding="utf-8"))) == {each.name for each in space}
