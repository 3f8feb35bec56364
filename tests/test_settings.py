"""`--set` and hyperparameters."""

import keras_tuner
import pytest

from common import catalogue, errors, settings


def configure(hp):
    hp.Int("units", 32, 128, step=32, default=64)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    hp.Choice("cell", ["lstm", "gru"], default="gru")
    hp.Choice("batch_size", [16, 32], default=32)
    hp.Boolean("mask", default=True)
    return hp


def test_values_have_their_hyperparameter_s_type():
    given = ["units=96", "learning_rate=0.002", "cell=lstm", "mask=False", "batch_size=16"]
    values = settings.parse(configure, given)
    assert values == {"units": 96, "learning_rate": 0.002, "cell": "lstm", "mask": False, "batch_size": 16}
    assert [type(value) for value in values.values()] == [int, float, str, bool, int]
    hp = settings.build(configure, values)
    assert {name: hp[name] for name in values} == values
    assert settings.parse(configure, catalogue.assignments(values).split()) == values


@pytest.mark.parametrize(
    "assignment, told",
    [
        ("unit=64", "units, learning_rate, cell, batch_size, mask"),
        ("units=100", "32..128 in steps of 32"),
        ("units=256", "32..128"),
        ("units=many", "32..128"),
        ("learning_rate=1", "0.0001..0.01"),
        ("cell=rnn", "lstm|gru"),
        ("batch_size=17", "16|32"),
        ("mask=maybe", "true|false"),
        ("units", "name=value"),
    ],
)
def test_mistakes_are_told_in_one_line_with_what_is_allowed(assignment, told):
    with pytest.raises(errors.RecipeError, match="^[^\n]*$") as error:
        settings.parse(configure, [assignment])
    assert told in str(error.value)


def test_listing_names_every_hyperparameter_with_default_and_range():
    lines = settings.listing(configure).splitlines()
    assert [line.split()[:2] for line in lines][:2] == [["units", "64"], ["learning_rate", "0.001"]]
    assert len(lines) == len(configure(keras_tuner.HyperParameters()).space)
