"""What the recipes' comparisons, beside their own figure, rest on."""

import json
import types

import keras
import numpy as np
import pytest

from common.cookbook import settings


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


@pytest.mark.parametrize("name", ["basics.optimizers"])
def test_optimizers_and_schedules_differ_from_what_is_common_to_all_by_what_they_say_alone(recipe):
    hp = settings.build(recipe.configure, {})
    compared, common = recipe.networks(hp), {**hp.values, **recipe.COMMON}
    assert len(compared) == sum(len(rates) for _, rates in recipe.COMPARED.values())
    for name, values in compared.items():
        kind, _, rate = name.rpartition("-")
        changes, _ = recipe.COMPARED[kind]
        assert values == {**common, **changes, "learning_rate": float(rate)}, name


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


@pytest.mark.parametrize("name", ["basics.perceptron"])
def test_rosenblatt_s_rule_takes_the_points_in_another_order_in_every_epoch_and_from_every_seed(recipe):
    points, targets = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 2 == 0  # No line separates them.

    def order(seed):
        """The points of all mistakes, which the weights tell, since a mistake adds or subtracts its point."""
        courses = recipe.learn(points, targets, 9, seed)
        changes = [np.diff(course, axis=0)[:, :2] for course in courses]
        return [
            [int(np.abs(np.abs(points) - np.abs(each)).sum(axis=1).argmin()) for each in epoch] for epoch in changes
        ]

    assert order(0) == order(0) != order(1)
    assert sum(epoch == sorted(epoch) for epoch in order(0)) < 3


@pytest.mark.parametrize("name", ["basics.regularization"])
def test_early_stopping_looks_at_validation(recipe):
    history = {"loss": [3.0, 2.0, 1.0], "val_loss": [3.0, 1.0, 2.0]}
    assert recipe.best_epoch(types.SimpleNamespace(history=types.SimpleNamespace(history=history))) == 2


@pytest.mark.parametrize("name", ["recurrent.forecasting"])
def test_days_forecast_from_forecasts_are_those_after_them(recipe, hp):
    """The decoder goes on from the state after all hours before, given or forecast."""
    values = {**hp.values, "decoder": "autoregressive", "subtract_last": False}
    keras.utils.set_random_seed(0)
    model = recipe.build_model(values)
    longer = recipe.build_model({**values, "look_back": hp["look_back"] + hp["segment"]})
    longer.set_weights(model.get_weights())
    history = np.random.default_rng(0).normal(size=(2, hp["look_back"], len(recipe.VARIABLES))).astype("float32")
    ahead, segment = model.predict(history, verbose=0), hp["segment"]
    found = longer.predict(np.concatenate([history, ahead[:, :segment]], axis=1), verbose=0)
    np.testing.assert_allclose(found[:, :-segment], ahead[:, segment:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["recurrent.tagging"])
def test_a_word_that_training_has_in_another_case_is_known(recipe, tiny_run, monkeypatch):
    hp, (sentences, _) = tiny_run.hp, recipe.read("train", tiny_run.hp["examples"])
    known = {word.decode().lower() for word in sentences.values.numpy()}
    words, right, _ = recipe.tag_split(tiny_run.model, hp, "test")
    is_known = np.array([word.decode().lower() in known for word in words])
    given = np.where(is_known, right, "wrong")
    monkeypatch.setattr(recipe, "tag_split", lambda *arguments: (words, right, given))
    # A small vocabulary makes no word of training unknown.
    metrics = recipe.evaluate(tiny_run.model, {**hp.values, "vocabulary_size": 10})
    assert metrics["accuracy_unknown"] == 0 and metrics["accuracy"] == is_known.mean()


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_a_node_s_state_is_that_of_the_paper_s_binary_tree_lstm(recipe):
    """Equations 9 to 14 of Tai et al. 2015, with one added to the forget gates' inputs; for both orders of children."""
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
    units, leaf = hp["units"], model.get_layer("leaf")
    kernel = 20 * leaf.kernel.numpy()
    kernel[:, units : 2 * units] = 0
    # The leaves' output gates are nearly shut, so that only their cells tell words apart.
    leaf.set_weights([kernel, np.repeat([0.0, -30.0, 0.0], units)])

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


@pytest.mark.parametrize("name", ["seq2seq.translation", "seq2seq.summarization", "seq2seq.chatbot"])
def test_what_is_decoded_is_encoded_as_in_training(name, recipe, tiny_run, monkeypatch):
    hp = settings.build(
        recipe.configure, {**tiny_run.hp.values, **({} if name == "seq2seq.translation" else {"length": 20})}
    )
    decoded = []

    def decoder(*arguments, **options):
        return lambda source, *beam_size: decoded.extend(source.numpy()) or np.zeros((len(source), 1), "int32")

    monkeypatch.setattr(recipe, "decoder", decoder)
    if name == "seq2seq.chatbot":
        histories, _ = recipe.histories_and_replies(hp, "validation")
        recipe.reply_to(tiny_run.model, recipe.assets(hp), histories)
    else:
        texts = recipe.read(split="validation", examples=hp["examples"])[0]
        recipe.predict(tiny_run.model, recipe.assets(hp), texts)
    trained = [row for inputs, *_ in recipe.load_data(hp, "validation") for row in np.asarray(inputs[0])]
    kept = [sorted(tuple(row[row > 0]) for row in rows) for rows in (decoded, trained)]
    assert kept[0] == kept[1] and max(map(len, kept[0])) > 5


@pytest.mark.parametrize("name", ["vision.resnet"])
def test_an_image_and_its_mirror_image_count_as_much_as_all_shifted_ones(recipe, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, size=(3, 32, 32, 3), dtype="uint8")

    def probabilities_of(model, views):
        """Class 0 for the images, 1 for their mirror images, 2 for other views."""
        kinds = [
            [np.any(np.all(each == view, axis=(1, 2, 3))) for each in (images, images[:, :, ::-1])] for view in views
        ]
        return np.eye(10)[[kind.index(True) if any(kind) else 2 for kind in kinds]]

    monkeypatch.setattr(recipe, "probabilities_of", probabilities_of)
    np.testing.assert_allclose(recipe.classify(None, images)[:, :3], 3 * [[0.25, 0.25, 0.5]])


@pytest.mark.parametrize("name", ["vision.inception"])
def test_a_branch_that_was_left_out_is_there_again(recipe, hp):
    model = recipe.build_model(hp)
    before = model.get_weights()
    branches = [layer.name.removesuffix("_norm") for layer in model.layers if layer.name.endswith("_norm")]
    recipe.without(model, branches[-1], np.zeros((2, 28, 28, 1), "uint8"))
    for pair in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("name", ["vision.cats_vs_dogs"])
def test_the_baseline_gets_every_image_twice_with_its_own_label(recipe, tiny_run, monkeypatch):
    fitted = {}

    class Classifier:
        def __init__(self, **options):
            pass

        def fit(self, images, labels):
            fitted.update({image.tobytes(): label for image, label in zip(images, labels, strict=True)})
            return self

        def score(self, images, labels):
            return 0.5

    monkeypatch.setattr(recipe, "svm", types.SimpleNamespace(LinearSVC=Classifier))
    monkeypatch.setattr(recipe, "describe", lambda images: images)
    recipe.evaluate(tiny_run.model, tiny_run.hp)
    for image, (label,) in zip(*recipe.read("train", tiny_run.hp["examples"])):
        assert fitted[image.tobytes()] == fitted[image[:, ::-1].tobytes()] == label


@pytest.mark.parametrize("name", ["vision.transfer_learning"])
def test_the_baseline_is_fitted_to_as_many_labels_as_the_networks(recipe, tiny_run, monkeypatch):
    counts = set()

    class Regression:
        def __init__(self, **options):
            pass

        def fit(self, features, dogs):
            counts.add((len(features), len(dogs)))
            return self

        def score(self, features, dogs):
            return 0.5

    monkeypatch.setattr(recipe, "linear_model", types.SimpleNamespace(LogisticRegression=Regression))
    recipe.logistic(tiny_run.hp, 20)
    assert counts == {(20, 20)}


@pytest.mark.parametrize("name", ["vision.vgg"])
def test_a_unit_is_pure_if_all_images_that_excite_it_show_the_same(recipe, monkeypatch):
    labels = np.repeat(np.arange(3), 10)
    first, second = labels == 1, np.arange(30) % 3 == 0  # The second unit is excited by as many of each.
    excited = np.stack([first, second], axis=1).astype("float32")[:, None, None]
    monkeypatch.setattr(recipe, "read", lambda *given: (None, labels))
    monkeypatch.setattr(recipe, "activity", lambda *given: excited)
    assert recipe.purity(None, None, 1) == pytest.approx((1 + 0.4) / 2)


@pytest.mark.parametrize("name", ["vision.shortcuts"])
def test_a_shortcut_takes_the_pixels_on_which_strided_windows_are_centred(recipe, hp):
    model = recipe.build_model({**hp.values, "depth": 8, "shortcuts": True})
    sliced = [each for each in model.operations if type(each).__name__ == "GetItem"]
    assert len(sliced) == 2
    images = np.random.default_rng(0).integers(0, 256, size=(1, 32, 32, 3), dtype="uint8")
    for operation in sliced:
        before, after = keras.Model(model.inputs[0], [operation.input, operation.output])(images, training=False)
        centre = np.zeros((3, 3, before.shape[-1], before.shape[-1]), "float32")
        centre[1, 1] = np.eye(before.shape[-1])
        np.testing.assert_allclose(after, keras.ops.conv(before, centre, strides=2, padding="same"), rtol=1e-5)


@pytest.mark.parametrize("name", ["vision.digit_transfer", "vision.transfer_learning"])
def test_batch_normalization_of_a_thawed_base_stays_frozen(tiny_run):
    thawed = 0
    for model in tiny_run.models.values():
        if model.name.startswith(("scratch", "base")):
            continue
        (base,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
        norms = [each for each in base.layers if isinstance(each, keras.layers.BatchNormalization)]
        assert norms and not any(each.trainable_weights for each in norms), model.name
        thawed += bool(base.trainable_weights)
    assert thawed


@pytest.mark.parametrize("name", ["seq2seq.translation"])
def test_padding_is_no_right_token(recipe, tiny_run, monkeypatch):
    """A model and a decoder that write nothing but padding are never right."""
    nothing = types.SimpleNamespace(predict_on_batch=lambda inputs: np.eye(9)[np.zeros(inputs[1].shape, "int32")])
    monkeypatch.setattr(
        recipe, "decoder", lambda *given, **options: lambda source: np.zeros((len(source), 99), "int32")
    )
    measured = recipe.compare_prefixes(nothing, tiny_run.hp, "validation")
    assert measured["accuracy_forced"] == measured["accuracy_free"] == 0


@pytest.mark.parametrize("name", ["basics.mlp", "basics.optimizers", "basics.regularization"])
def test_the_recipe_s_own_network_does_not_depend_on_what_it_is_compared_with(recipe, tiny_run):
    keras.utils.set_random_seed(0)
    expected = recipe.build_model(tiny_run.hp).get_weights()
    for pair in zip(tiny_run.fits.first_weights[tiny_run.model.name], expected, strict=True):
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("name", ["vision.lenet"])
def test_all_layers_pool_and_activate_alike(recipe, hp):
    for pooling, kind in {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}.items():
        for activation in ("relu", "tanh"):
            model = recipe.build_model({**hp.values, "pooling": pooling, "activation": activation})
            assert all(isinstance(model.get_layer(name), kind) for name in ("S2", "S4"))
            assert {model.get_layer(name).activation.__name__ for name in ("C1", "C3", "C5", "F6")} == {activation}


@pytest.mark.parametrize("name", ["seq2seq.translation"])
def test_what_is_written_on_padding_is_no_part_of_a_translation(recipe, tiny_run, monkeypatch):
    size = tiny_run.hp["vocabulary_size"]

    def predict(inputs):
        """The right token wherever there is one, and any token on padding."""
        shifted = np.asarray(inputs[1])
        following = np.pad(shifted[:, 1:], ((0, 0), (0, 1)))
        right = np.where(following > 0, following, np.where(shifted > 0, recipe.END, size - 1))
        return np.eye(size)[right]

    monkeypatch.setattr(
        recipe, "decoder", lambda *given, **options: lambda source: np.zeros((len(source), 99), "int32")
    )
    measured = recipe.compare_prefixes(types.SimpleNamespace(predict_on_batch=predict), tiny_run.hp, "validation")
    assert measured["accuracy_forced"] == 1 and measured["bleu_forced"] == pytest.approx(100)


@pytest.mark.parametrize("name", ["seq2seq.chatbot"])
def test_the_most_typical_of_the_retrieved_replies_is_chosen(recipe, hp, monkeypatch):
    replies = 20 * ["No idea."] + 15 * ["Your table is booked."] + 5 * ["How many people?"]
    monkeypatch.setattr(recipe, "histories_and_replies", lambda *given: (replies, replies))
    monkeypatch.setattr(recipe, "nearest", lambda *given, **options: [np.arange(20, 40), np.arange(20)])
    assert recipe.retrieve(hp, ["one", "another"]) == ["Your table is booked.", "No idea."]


@pytest.mark.parametrize("name", ["recurrent.anomaly_detection"])
def test_a_score_is_averaged_with_those_before_it_alone(recipe):
    scores = np.random.default_rng(0).normal(size=20)
    expected = [np.mean([scores[max(0, place - back)] for back in range(5)]) for place in range(20)]
    np.testing.assert_allclose(recipe.average(scores, 5), expected)


@pytest.mark.parametrize("name", ["recurrent.sentiment"])
def test_the_n_grams_saved_have_the_numbers_of_those_learned(recipe, tiny_run, monkeypatch):
    """`predict` counts with a vectorizer made from the saved file; its n-grams must meet the weights of training."""
    hp, seen = tiny_run.hp, []
    texts, _ = recipe.read("validation", hp["examples"])
    counter, _ = recipe.bag(hp["examples"])
    ngrams_of = recipe.ngrams_of
    monkeypatch.setattr(recipe, "ngrams_of", lambda *given: seen.append(ngrams_of(*given)) or seen[-1])
    recipe.predict(tiny_run.model, recipe.assets(hp), [text.decode() for text in texts[:20]])
    assert seen[0].to_list() == ngrams_of(texts[:20], counter).to_list() and seen[0].values.shape[0] > 100


@pytest.mark.parametrize("name", ["vision.resnet"])
def test_batch_normalization_in_one_operation_is_that_of_keras(recipe):
    images = np.random.default_rng(0).normal(3, 2, size=(16, 8, 8, 5)).astype("float32")
    fused, usual = (kind(momentum=0.9) for kind in (recipe.FusedBatchNormalization, keras.layers.BatchNormalization))
    np.testing.assert_allclose(fused(images, training=True), usual(images, training=True), atol=1e-3)
    for mine, expected in zip(fused.weights, usual.weights, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-3, err_msg=mine.path)  # TensorFlow's variance is unbiased.
    np.testing.assert_allclose(fused(images, training=False), usual(images, training=False), atol=1e-2)


@pytest.mark.parametrize("name", ["recurrent.forecasting"])
def test_what_repeats_every_day_is_forecast_by_the_last_day_and_what_stays_by_the_last_hour(recipe, tiny_run, hp):
    hours = np.arange(hp["look_back"] + recipe.HORIZON)
    for period, baseline in ((24, "last day"), (1, "last hour")):
        series = np.stack([hours % period + variable for variable in range(len(recipe.VARIABLES))], axis=1)[None]
        past, future = series[:, : hp["look_back"]].astype("float32"), series[:, hp["look_back"] :]
        np.testing.assert_allclose(recipe.forecasts(tiny_run.model, hp, past)[baseline], future)


@pytest.mark.parametrize("name", ["basics.mlp"])
def test_networks_are_trained_for_as_many_epochs_as_their_hyperparameters_say(recipe, monkeypatch):
    asked = {}

    def build_model(values, name):
        return types.SimpleNamespace(fit=lambda *_, epochs, **options: asked.update({name: epochs}))

    monkeypatch.setattr(recipe, "build_model", build_model)
    monkeypatch.setattr(recipe, "load_data", lambda hp, split: None)
    recipe.train(settings.build(recipe.configure, {"epochs": 5, "compared": 1}), seed=0)
    assert asked == {"sigmoid-2": 3, "sigmoid-10": 3, "mlp": 5}


@pytest.mark.parametrize("name", ["recurrent.vanishing_gradients"])
def test_clipping_shortens_a_gradient_and_keeps_its_direction(recipe, hp):
    optimizer = recipe.build_model({**hp.values, "optimizer": "sgd", "learning_rate": 1.0, "clip_norm": 1.0}).optimizer
    variables = [keras.Variable(np.zeros(1), dtype="float32") for _ in range(2)]
    optimizer.apply([keras.ops.array([300.0]), keras.ops.array([-400.0])], variables)
    np.testing.assert_allclose([float(each[0]) for each in variables], [-0.6, 0.8], rtol=1e-4)


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_every_word_of_the_vocabulary_is_found(recipe, hp):
    words = (assets := recipe.assets(hp))["vocabulary.txt"].split("\n")
    np.testing.assert_array_equal(recipe.encode([" ".join(words)], assets)[0], np.arange(2, len(words) + 2))


@pytest.mark.parametrize("name", ["recurrent.sentiment"])
def test_without_the_bag_its_log_odds_weigh_nothing(recipe, tiny_run):
    values = {**tiny_run.hp.values, "bag": False}
    (recurrent_weight, bag_weight), _ = (
        recipe.add_bag(values, recipe.build_model(values)).get_layer("mixture").get_weights()
    )
    assert bag_weight == 0 != recurrent_weight


@pytest.mark.parametrize("name", ["vision.transfer_learning"])
def test_a_thawed_base_learns_at_a_rate_of_its_own(tiny_run):
    model = tiny_run.model
    weights = model.get_layer("base").trainable_weights
    assert weights and model.optimizer.slow == {each.value.ref() for each in weights}
    assert model.optimizer.share == tiny_run.hp["base_rate"]


@pytest.mark.parametrize("name", ["vision.shortcuts"])
def test_gradients_are_those_of_training_in_which_batches_are_normalized(recipe, hp, monkeypatch):
    build_model, norms = recipe.build_model, recipe.gradient_norms(hp.values)

    def doubled(hp):
        model = build_model(hp)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Conv2D):
                layer.kernel.assign(2 * layer.kernel)
        return model

    monkeypatch.setattr(recipe, "build_model", doubled)
    # Normalization undoes the factor, so that the same loss changes half as fast.
    np.testing.assert_allclose(recipe.gradient_norms(hp.values), np.array(norms) / 2, rtol=0.05)


@pytest.mark.parametrize("name", ["vision.resnet"])
def test_whitening_filters_stay_as_they_were_set(recipe, tiny_run):
    filters = recipe.whitening_filters(recipe.read(tiny_run.hp, "train")[0][:5000])
    np.testing.assert_allclose(tiny_run.model.get_layer("whitening").kernel, filters, rtol=1e-6)


@pytest.mark.parametrize("name", ["basics.losses"])
def test_the_baseline_learns_from_as_few_rare_digits_as_the_networks(recipe, tiny_run, monkeypatch):
    asked, read = [], recipe.read
    monkeypatch.setattr(recipe, "read", lambda *arguments: asked.append(arguments) or read(*arguments))
    recipe.evaluate(tiny_run.models, tiny_run.hp)
    rarities = {arguments[2:] for arguments in asked if arguments[0] == "train"}
    assert rarities == {(tiny_run.hp["rarity"],)} and tiny_run.hp["rarity"] > 1


@pytest.mark.parametrize("name", ["basics.losses"])
def test_dividing_by_frequencies_finds_rare_digits_that_are_nearly_as_likely_as_others(recipe, hp):
    logits = np.zeros((20, 10), "float32")
    logits[:, recipe.RARE] = -np.log(hp["rarity"]) / 2
    model = types.SimpleNamespace(predict=lambda images, verbose: logits)
    figures = recipe.compare({"model": model}, hp, np.zeros((20, 28, 28, 1)), np.full(20, recipe.RARE))
    assert hp["rarity"] > 1 and figures["categorical"]["rare_recall"] == 0 and figures["divided"]["rare_recall"] == 1


@pytest.mark.parametrize("name", ["basics.mlp"])
def test_the_support_vector_machine_knows_the_digits_that_it_learned(recipe, tiny_run, monkeypatch):
    read = recipe.read
    monkeypatch.setattr(recipe, "read", lambda hp, split: read(hp, "train"))
    assert recipe.evaluate(tiny_run.models, tiny_run.hp)["svm_accuracy"] > 0.95


@pytest.mark.parametrize("name", ["vision.cats_vs_dogs"])
def test_what_supports_a_dog_is_what_supports_a_cat_for_a_network_that_answers_the_opposite(recipe, hp):
    keras.utils.set_random_seed(0)
    model, images = recipe.build_model(hp), np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), "uint8")
    marks = recipe.grad_cam(model, images)
    logit = model.get_layer("logit")
    logit.set_weights([-each for each in logit.get_weights()])
    np.testing.assert_allclose(recipe.grad_cam(model, images), marks, rtol=1e-4, atol=1e-5)
    assert (marks.max(axis=(1, 2)) > 0).any()


class AllOnOnePlace(keras.layers.Layer):
    """Attention from (B, T) to (B, S), of which the weights rest on one place alone."""

    def __init__(self, place):
        super().__init__(name="attention")
        self.place = place

    def call(self, history, shifted):
        weights = keras.ops.one_hot(keras.ops.zeros_like(shifted) + self.place, 8)  # (B, T, S)
        return shifted, weights


@pytest.mark.parametrize("name", ["seq2seq.chatbot"])
@pytest.mark.parametrize("place, share", [(0, 1.0), (2, 1.0), (3, 0.0), (4, 0.0), (5, 1.0), (6, 1.0)])
def test_attention_to_the_last_turn_and_every_second_before_it_is_attention_to_the_user(recipe, place, share):
    user, system = range(len(recipe.SPECIAL), len(recipe.SPECIAL) + 2)
    history, reply = np.array([[user, 50, 51, system, 60, user, 70, 0]]), np.array([[80, 81, 0]])
    inputs = keras.Input((8,), dtype="int32"), keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, AllOnOnePlace(place)(*inputs)[0])
    found = recipe.attention_to_user(model, [((history, reply), reply, None)])
    assert found == pytest.approx({"attention_to_user": share, "uniform_to_user": 5 / 7})


@pytest.mark.parametrize("name", ["seq2seq.question_answering"])
def test_trees_see_the_latest_of_the_sentences_about_the_one_asked_for_first(recipe):
    name, other = list(recipe.EXCHANGEABLE[0])[:2]
    story = [f"{who} {word}" for who, word in zip([name, other] * 3, ("one", "two", "three", "four", "five", "six"))]
    places, numbers = recipe.find_clues({"question": f"where is {name}", "story": story})
    assert [places[f"{row} 1"] for row in (1, 5, 9)] == ["five", "three", "one"]
    assert places["1 0"] == places["0 2"] == numbers[name]


@pytest.mark.parametrize("name", ["seq2seq.addition"])
@pytest.mark.parametrize("reverse", [True, False])
def test_a_sum_is_read_in_the_direction_of_training(recipe, hp, reverse, monkeypatch):
    read, encode = [], recipe.encode_questions
    monkeypatch.setattr(recipe, "encode_questions", lambda *given: read.append(given) or encode(*given))
    recipe.predict(recipe.build_model(hp), {"settings.json": json.dumps({"reverse": reverse})}, ["12+3"])
    assert read == [(["12+3"], reverse)]
    assert (encode(["12+3"], True)[0][:4] == encode(["12+3"], False)[0][:4][::-1]).all()
