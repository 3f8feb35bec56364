"""What the fits of a tiny run began with, how their optimizers ended, and how many labels they were given."""

import re
import types

import keras
import numpy as np
import pytest

from test_batches import count

UNCLIPPED = ["recurrent.sentiment"]  # Its recorded figure was measured so.


def test_a_learning_rate_falls_below_a_hundredth_of_its_peak(recipe, tiny_run):
    if not hasattr(recipe, "OneCycle"):
        return
    fits = tiny_run.fits.optimizers
    if "schedule" in tiny_run.hp.values and tiny_run.model.name in fits:
        # Schedules are compared: only the recipe's own network must have one.
        fits = {tiny_run.model.name: fits[tiny_run.model.name]}
    assert fits and all(each["last"] < 0.01 * each["peak"] for each in fits.values()), fits


def test_gradients_of_recurrent_networks_are_clipped(entry, tiny_run):
    if entry.name.startswith(("recurrent.", "seq2seq.")) and entry.name not in UNCLIPPED:
        fits = tiny_run.fits.optimizers
        assert fits and all(each["clip_norm"] for each in fits.values()), fits


def test_fine_tuning_begins_with_base_and_head_of_the_frozen_network(tiny_run):
    begun = tiny_run.fits.first_weights
    for model in tiny_run.models.values():
        name = getattr(model, "name", "")
        if name.startswith("frozen"):
            number = name.removeprefix("frozen")
            others = ("frozen", "scratch")
            tuned = next(each for each in begun if each.endswith(number) and not each.startswith(others))
            for first, kept in zip(begun[tuned], model.get_weights(), strict=True):
                np.testing.assert_array_equal(first, kept, err_msg=f"{tuned} does not begin as {name} ends")


@pytest.mark.parametrize("name", ["recurrent.pretrained_language_model"])
def test_fine_tuning_begins_with_the_weights_of_the_language_model(tiny_run):
    learned = tiny_run.fits.last_weights["language-model"][:4]  # Those of embedding and LSTM.
    begun = {name: weights[:4] for name, weights in tiny_run.fits.first_weights.items()}
    for kind, same in (("fine-tuned", True), ("scratch", False)):
        (weights,) = (weights for name, weights in begun.items() if name.startswith(kind))
        assert all(np.array_equal(*pair) == same for pair in zip(weights, learned, strict=True) if pair[0].any())


def labels_given(recipe, hp):
    """What fits and regressions of `train` are given, without doing them: a list of dictionaries, in their order.

    name: of the network that is fitted, or was fitted last. labels: how many. positive: how many of these are 1.
    head: the weights of a network's last layer, or what the regression found, which differs from call to call.
    """
    given = []

    def note(model, batches, **_):
        examples, _ = count(batches)  # Each once, whatever the number of passes.
        positive = sum(any(label) for *_, label in examples)
        head = model.layers[-1].get_weights()
        given.append({"name": model.name, "labels": len(examples), "positive": positive, "head": head})

    def regress(rows, labels, *_):
        assert rows.shape[0] == len(labels)
        head = np.full((rows.shape[1], 1), len(given)), np.full(1, len(given))
        given.append({"name": given[-1]["name"], "labels": len(labels), "positive": labels.sum(), "head": head})
        return types.SimpleNamespace(coef_=head[0].T, intercept_=head[1])

    def pretrain(hp, *_, **__):
        """No training; the base that BERT's encoder is taken from."""
        if hasattr(recipe, "build_encoder"):
            encoder = recipe.build_encoder(hp)
            return keras.Model(encoder.input, encoder.outputs, name="base")

    changed = {
        "pretrain": pretrain,
        "logistic_regression": lambda *arguments, **_: regress(*arguments),
        "start_from_regression": note,
        "as_network": lambda _, name: types.SimpleNamespace(name=name),
        "combine": lambda networks, *_: (networks, networks[-1]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", note)
        patch.setattr(
            keras.Model, "predict", lambda model, inputs, **_: np.zeros((len(inputs), model.output.shape[-1]))
        )
        for name in changed.keys() & vars(recipe).keys():
            patch.setattr(recipe, name, changed[name])
        patch.setattr(recipe, "LABELS", (20, 60))
        recipe.train({**hp.values, "labels": 60, "subsets": 2, "glue": 1}, 0)
    return given


@pytest.mark.parametrize("name", ["recurrent.pretrained_language_model", "transformers.bert"])
def test_networks_and_baselines_learn_from_the_same_labels_and_as_many_as_their_names_say(name, recipe, hp):
    stages = {}
    for each in labels_given(recipe, hp):
        stages.setdefault(re.sub("scratch-|fine-tuned-", "", each["name"]), []).append(each)
    assert list(stages) == (["mrpc", "20", "60"] if "bert" in name else ["20-0", "20-1", "60-0", "60-1"])
    for stage, uses in stages.items():
        assert len(uses) == (5 if "bert" in name else 4)
        labels = int(stage.split("-")[0]) if stage != "mrpc" else hp["examples"]
        assert {each["labels"] for each in uses} == {labels}
        assert len({each["positive"] for each in uses}) == 1 and 0.3 < uses[0]["positive"] / labels < 0.8


@pytest.mark.parametrize("name", ["recurrent.pretrained_language_model"])
def test_fine_tuning_begins_with_the_regression_on_frozen_features(recipe, hp):
    given = labels_given(recipe, hp)
    fits = [place for place, each in enumerate(given) if each["name"].startswith("fine-tuned")][::2]
    assert len(fits) == 4
    for fit in fits:
        scratch, regression, tuned = (each["head"] for each in given[fit - 2 : fit + 1])
        for found, began in zip(regression, tuned, strict=True):
            np.testing.assert_array_equal(found, began)
        assert np.ptp(scratch[0]) > 0, "not random"
