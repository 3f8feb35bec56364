"""What the recipes' comparisons, beside their own figure, rest on."""

import types

import keras
import numpy as np
import pytest


@pytest.mark.parametrize("name", ["basics.backpropagation"])
def test_a_single_wrong_gradient_among_many_decides(recipe):
    right = np.zeros(1000)
    wrong = np.where(np.arange(1000) == 7, 1e-3, 0)
    assert recipe.decimals([right, right], [right, wrong]) == pytest.approx(3)


@pytest.mark.parametrize("name", ["basics.cross_validation"])
def test_an_unseen_passenger_s_fate_does_not_depend_on_who_else_is_unseen(recipe, hp):
    generator = np.random.default_rng(0)
    known, unseen = generator.normal(size=(60, 7)).astype("float32"), generator.normal(size=(9, 7)).astype("float32")
    survived = (known[:, 0] > 0).astype("int64")
    others = np.full((200, 7), 50.0, "float32")
    for method in recipe.METHODS:
        alone = recipe.survivors(hp, method, known, survived, unseen)
        together = recipe.survivors(hp, method, known, survived, np.concatenate([unseen, others]))
        np.testing.assert_array_equal(alone, together[: len(unseen)], err_msg=method)


@pytest.mark.parametrize("name", ["basics.losses"])
def test_the_rare_digit_is_rare_in_training_alone(recipe, tiny_run, hp):
    rarity = hp["rarity"]
    for split in recipe.SPLITS:
        digits = np.concatenate([np.asarray(labels) for _, labels in recipe.load_data(hp, split)])
        digits = digits.argmax(axis=1) if digits.ndim > 1 else digits
        count = np.sum(recipe.read(split, hp["examples"])[1] == recipe.RARE)
        assert np.sum(digits == recipe.RARE) == (-(-count // rarity) if split == "train" else count)


@pytest.mark.parametrize("name", ["basics.mlp"])
def test_a_unit_is_dead_if_all_images_leave_it_as_it_is(recipe):
    images, layers = keras.Input((4,)), [keras.layers.Dense(4, use_bias=False, name=f"hidden{i}") for i in (1, 2)]
    model = keras.Model(images, keras.layers.Dense(2)(layers[1](layers[0](images))))
    for layer, ends in zip(layers, (3, 2)):  # One of the first layer's units is dead, two of the second's.
        layer.set_weights([np.diag(np.arange(4) < ends).astype("float32")])
    assert recipe.dead(model, np.random.default_rng(0).normal(size=(50, 4)).astype("float32")) == 3 / 8


@pytest.mark.parametrize("name", ["basics.optimizers", "basics.regularization", "basics.losses"])
def test_networks_that_are_compared_start_from_the_same_weights(tiny_run):
    begun = {}
    for network, weights in tiny_run.fits.first_weights.items():
        if network == "optimizers":  # It flips images, and draws a seed for that before its weights.
            continue
        begun.setdefault(tuple(each.shape for each in weights), []).append(weights)
    assert max(map(len, begun.values())) > 1
    for first, *others in begun.values():
        for other in others:
            for pair in zip(first, other, strict=True):
                np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("name", ["basics.perceptron"])
def test_every_bound_is_that_of_the_points_learned_from(recipe, tiny_run):
    metrics, (measurements, targets) = tiny_run.results["metrics"], recipe.load_data(tiny_run.hp, "train")
    for prefix, points in recipe.preparations(measurements).items():
        assert metrics[f"{prefix}bound"] == pytest.approx(recipe.novikoff(points, targets), rel=1e-3)
        assert metrics[f"{prefix}mistakes"] <= metrics[f"{prefix}bound"]
    assert metrics["standardized_bound"] < metrics["bound"] / 2


@pytest.mark.parametrize("name", ["basics.regularization"])
def test_early_stopping_looks_at_validation(recipe):
    history = {"loss": [3.0, 2.0, 1.0], "val_loss": [3.0, 1.0, 2.0]}
    assert recipe.best_epoch(types.SimpleNamespace(history=types.SimpleNamespace(history=history))) == 2


@pytest.mark.parametrize("name", ["recurrent.forecasting"])
def test_a_day_forecast_from_forecasts_is_the_first_after_them(recipe, hp):
    """The decoder goes on from the state after all hours before, given or forecast."""
    values = {**hp.values, "decoder": "autoregressive", "subtract_last": False}
    keras.utils.set_random_seed(0)
    model = recipe.build_model(values)
    longer = recipe.build_model({**values, "look_back": hp["look_back"] + hp["segment"]})
    longer.set_weights(model.get_weights())
    history = np.random.default_rng(0).normal(size=(2, hp["look_back"], len(recipe.VARIABLES))).astype("float32")
    ahead = model.predict(history, verbose=0)
    first, second = ahead[:, : hp["segment"]], ahead[:, hp["segment"] : 2 * hp["segment"]]
    found = longer.predict(np.concatenate([history, first], axis=1), verbose=0)
    np.testing.assert_allclose(found[:, : hp["segment"]], second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["recurrent.tagging"])
def test_a_word_that_training_has_in_another_case_is_known(recipe, tiny_run, monkeypatch):
    hp, (sentences, _) = tiny_run.hp, recipe.read("train", tiny_run.hp["examples"])
    known = {word.decode().lower() for word in sentences.values.numpy()}
    words, right, _ = recipe.tag_split(tiny_run.model, hp, "test")
    is_known = np.array([word.decode().lower() in known for word in words])
    given = np.where(is_known, right, "wrong")
    monkeypatch.setattr(recipe, "tag_split", lambda *arguments: (words, right, given))
    metrics = recipe.evaluate(tiny_run.model, hp)
    assert metrics["accuracy_unknown"] == 0 and metrics["accuracy"] == is_known.mean()


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_a_node_s_state_is_that_of_the_paper_s_binary_tree_lstm(recipe):
    """Equations 9 to 14 of Tai et al. 2015, node by node, for the tree ((0 1) 2) and its mirror image (2 (1 0))."""
    units, generator = 3, np.random.default_rng(0)
    outputs, cells = generator.normal(size=(2, 2, units))
    matrix, bias = generator.normal(size=(2 * units, 5 * units)), generator.normal(size=5 * units)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for order in ([0, 1], [1, 0]):
        parts = outputs[order].ravel() @ matrix + bias
        i, left, right, o, u = np.split(parts, 5)
        first, second = cells[order]
        cell = sigmoid(i) * np.tanh(u) + sigmoid(left + 1) * first + sigmoid(right + 1) * second
        found = recipe.lstm_state(parts[None].astype("float32"), *cells[order][:, None].astype("float32"))
        np.testing.assert_allclose(found[0], np.concatenate([sigmoid(o) * np.tanh(cell), cell]), rtol=1e-4)


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_the_root_remembers_the_cells_of_both_children(recipe, hp):
    keras.utils.set_random_seed(0)
    model = recipe.build_model({**hp.values, "height": 1})
    layer = {each.name: each for each in model.layers if each.name in ("leaf", "inner", "phrases")}
    units = hp["units"]
    leaf = layer["leaf"].kernel.numpy()
    leaf[:, units : 2 * units] = 0  # Every leaf's output gate is nearly shut: the cells alone tell words apart.
    layer["leaf"].kernel.assign(leaf)
    layer["leaf"].bias.assign(np.repeat([0.0, -30.0, 0.0], units))
    layer["leaf"].kernel.assign(20 * leaf)

    def root(*words):
        """The logits of the tree of two words."""
        inputs = (
            np.array(words, "int32"),
            np.array([2], "int32"),
            np.arange(3, dtype="int32"),
            np.array([[0, 1]], "int32"),
        )
        return model(inputs, training=False)[1].numpy()

    for other in ((5, 4), (3, 5)):
        assert not np.allclose(root(3, 4), root(*other), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["seq2seq.addition"])
def test_a_carry_may_arise_from_the_one_before(recipe):
    sums = {"1+2": 0, "5+5": 1, "95+5": 2, "50+50": 1, "999+1": 3, "450+450": 1, "123+456": 0, "109+1": 1}
    assert {each: recipe.carries(each) for each in sums} == sums


@pytest.mark.parametrize("name", ["seq2seq.summarization"])
def test_a_word_from_the_mail_is_a_whole_word(recipe):
    assert recipe.share_from_mail(["Cat plan a"], ["concatenate the PLAN"]) == 1 / 3
