"""What the fits of a tiny run began with, and how their optimizers ended."""

import numpy as np
import pytest

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
