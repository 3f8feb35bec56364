"""Whether figures are what they say: answers are counted right, baselines do not know them, seeds are summed up."""

import contextlib
import inspect
import itertools
import re
import types

import keras
import numpy as np
import pytest

from common.cookbook import results, runs
from conftest import NAMES, module_of
from known_answers import evaluate_with_known_answers, functions, named_in, parameters, readers, writer
from test_recipes import call


def can_be_perfect(recipe):
    """Whether the figure is a share of right answers or an error, so that known answers determine it."""
    return re.search("accuracy|exact_match|bleu|rouge|^mse$", recipe.PROMISE["figure"]["metric"]) is not None


@pytest.fixture(scope="session")
def known(tiny_runs):
    """A function from a recipe's name to what `evaluate_with_known_answers` returns."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = evaluate_with_known_answers(tiny_runs(name), module_of(name))
        return found[name]

    return get


@pytest.mark.recorded
def test_if_all_answers_but_the_last_are_right_the_figure_says_so(name, recipe, tiny_run, known):
    if can_be_perfect(recipe):
        answers, metrics = known(name)
        figure = recipe.PROMISE["figure"]["metric"]
        assert any(metrics[figure] == pytest.approx(each, abs=1e-6) for each in answers.figures(figure))


@pytest.mark.recorded
def test_a_baseline_does_not_know_the_test_answers(name, recipe, tiny_run, known):
    """Its own stay the same, whatever they are: it can't be right when they are true and again when all are alike."""
    baseline = recipe.PROMISE["baseline"]["metric"]
    if can_be_perfect(recipe) and "mse" not in baseline:
        answers, metrics = known(name)
        if answers.texts:
            assert metrics[baseline] == 0
        elif "balanced" in baseline:
            assert metrics[baseline] < 1
        else:
            both = tiny_run.results["metrics"][baseline] + metrics[baseline]
            assert both <= 1 + answers.share + 0.05


def test_the_figures_that_known_answers_do_not_determine_are_counted_below():
    below = {"basics.backpropagation", "recurrent.anomaly_detection", "recurrent.language_model", "transformers.gpt"}
    below |= {"generative.gan", "generative.diffusion"}  # In test_adversaries.py and test_diffusion.py.
    below |= {"generative.autoencoder", "generative.vae"}  # In test_generative.py.
    below |= {"generative.normalizing_flow", "generative.pixelcnn"}  # In test_likelihoods.py.
    assert {name for name in NAMES if not can_be_perfect(module_of(name))} == below


@pytest.mark.parametrize("name", ["basics.backpropagation"])
def test_gradients_by_hand_agree_with_those_of_the_tape_before_and_after_training(recipe, tiny_run):
    metrics = tiny_run.results["metrics"]
    assert metrics["agreeing_decimals"] > recipe.PROMISE["published"]["value"]
    assert metrics["agreeing_decimals_float64"] > 12 and metrics["weight_decimals"] > 5
    assert metrics["finite_difference_decimals_float64"] > 9


@pytest.mark.parametrize("name", ["recurrent.language_model"])
def test_nats_are_those_of_every_character_after_all_before_it(recipe, tiny_run, hp):
    ids = np.asarray(recipe.encode(recipe.START + recipe.load_text(hp, "test")))
    states = [np.zeros((1, each.shape[-1]), "float32") for each in tiny_run.model.inputs[1:]]
    logits, *_ = tiny_run.model.predict_on_batch([ids[None, :-1], *states])
    nats = keras.losses.sparse_categorical_crossentropy(ids[None, 1:], logits, from_logits=True)
    assert tiny_run.results["metrics"]["test_nats"] == pytest.approx(float(np.mean(nats)), rel=1e-4)


@pytest.mark.parametrize("name", ["recurrent.language_model"])
def test_almost_without_temperature_the_likeliest_characters_follow_a_prompt(recipe, tiny_run, hp):
    with random_weights(tiny_run.model):
        prompts = ["To be, or", "O"]
        written = recipe.generate(tiny_run.model, recipe.VOCABULARY, prompts, 20, temperature=1e-3)
        for prompt, text in zip(prompts, written):
            ids = np.asarray(recipe.encode(recipe.START + prompt + text))
            states = [np.zeros((1, each.shape[-1]), "float32") for each in tiny_run.model.inputs[1:]]
            logits = call(tiny_run.model, [ids[None, :-1], *states])[0, -20:]
            assert (np.take_along_axis(logits, ids[-20:, None], axis=1)[:, 0] > logits.max(axis=1) - 0.02).all()
            assert len(set(text)) > 3


@pytest.mark.parametrize("name", ["transformers.gpt"])
def test_figures_are_means_over_all_characters_of_both_splits(recipe, tiny_run, hp):
    metrics, context = tiny_run.results["metrics"], hp["context"]
    for figure, stride in (("both_nats", context // 4), ("crops_nats", context)):
        nats = [recipe.held_out(tiny_run.model, hp, split, stride) for split in ("validation", "test")]
        assert metrics[figure] == pytest.approx(np.mean(np.concatenate(nats)), rel=1e-5)
    assert metrics["test_nats"] == pytest.approx(np.mean(recipe.held_out(tiny_run.model, hp, "test", context // 4)))
    read = call(tiny_run.model, [recipe.copies(hp)[:, :-1]])
    nats = keras.losses.sparse_categorical_crossentropy(recipe.copies(hp)[:, 1:], read, from_logits=True)
    halves = np.mean(nats[:, : context // 2]), np.mean(nats[:, context // 2 :])
    assert (metrics["first_nats"], metrics["second_nats"]) == pytest.approx(halves, rel=1e-4)
    assert metrics["ngram_second_nats"] < 0.6 * metrics["ngram_first_nats"]


@pytest.mark.parametrize("name", ["transformers.gpt"])
def test_almost_without_temperature_the_likeliest_characters_follow_half_a_context(recipe, tiny_run, hp):
    with random_weights(tiny_run.model):
        prompts, half = ["To be, or", "O", "A prompt that is longer than the context"], hp["context"] // 2
        written = recipe.generate(tiny_run.model, recipe.VOCABULARY, prompts, 2 * half + 3, temperature=1e-3)
        for prompt, text in zip(prompts, written):
            ids, known = np.asarray(recipe.encode(recipe.START + prompt + text)), 1 + len(prompt)
            assert len(text) == 2 * half + 3 and len(set(text)) > 3
            for place in range(known, len(ids)):
                round_start = known + (place - known) // half * half
                logits = call(tiny_run.model, [ids[None, max(0, round_start - half) : place]])[0, -1]
                assert logits[ids[place]] > logits.max() - 0.02


@pytest.mark.parametrize("name", ["recurrent.anomaly_detection"])
def test_scores_that_are_the_labels_detect_everything_and_rules_are_chosen_on_validation(
    recipe, tiny_run, hp, monkeypatch
):
    chosen_on = []
    choose = recipe.choose_rule
    monkeypatch.setattr(
        recipe, "choose_rule", lambda scores, labels: chosen_on.append(labels) or choose(scores, labels)
    )
    monkeypatch.setattr(recipe, "windows", lambda hp, *part: (part, None))
    monkeypatch.setattr(recipe, "reconstruct", lambda _, part: (None, (recipe.read(*part)[1] > 0).astype(float)))
    metrics = recipe.evaluate(tiny_run.model, hp)
    assert metrics["average_precision"] == metrics["f1"] == metrics["f1_of_best_threshold"] == 1
    assert metrics["anomalies_found"] == metrics["anomalies"] > 3 and metrics["false_alarms"] == 0
    known = [recipe.read(series, "validation")[1].tolist() for series in recipe.SERIES]
    assert all(labels.tolist() in known for labels in chosen_on)


@pytest.mark.parametrize("name", ["basics.cross_validation"])
def test_the_spread_of_a_mean_is_that_over_repeats(recipe, tiny_run, monkeypatch):
    on_folds = np.random.default_rng(0).uniform(size=(3, 4))
    monkeypatch.setattr(recipe, "cross_validate", lambda hp, method: (on_folds, on_folds.ravel(), {}))
    metrics = recipe.evaluate(tiny_run.trained, tiny_run.hp)
    assert metrics["MLP-mean-sd"] == pytest.approx(np.std([row.mean() for row in on_folds], ddof=1))
    assert metrics["MLP-fold-sd"] == pytest.approx(np.std(on_folds.ravel(), ddof=1))


@contextlib.contextmanager
def random_weights(model):
    """Large random matrices for a while, with which the model writes other words at every step."""
    kept, generator = model.get_weights(), np.random.default_rng(0)
    # A large embedding that also makes the logits would repeat the word that it reads.
    tied = [id(each.embeddings) for each in model.layers if isinstance(each, keras.layers.ReversibleEmbedding)]
    for weight in model.trainable_weights:
        if len(weight.shape) == 2 and id(weight) not in tied:
            weight.assign(generator.normal(size=weight.shape, scale=4 / weight.shape[-1] ** 0.5))
    try:
        yield
    finally:
        model.set_weights(kept)


def recorder(function, calls):
    """The function, whose arguments by name and result are noted in `calls`."""

    def recorded(*arguments, **options):
        result = function(*arguments, **options)
        calls.append((inspect.signature(function).bind(*arguments, **options).arguments, result))
        return result

    return recorded


def some_texts(recipe, hp):
    """The first of the raw inputs that `evaluate` reads, from validation."""
    (name,) = (each for each in readers(recipe) if each in named_in(recipe.evaluate) and each != "load_data")
    given = {"hp": hp, "split": "validation", "examples": hp["examples"]}
    return functions(recipe)[name](**{each: given[each] for each in parameters(functions(recipe)[name])})[0][:6]


def scores_of(model, source, shifted, size):
    """A model's score of every token at each place of a text (N, T, V), or its log p where that is the output."""
    if len(model.outputs[0].shape) == 3:
        return call(model, [source, shifted])
    every = np.tile(np.arange(size, dtype="int32")[:, None], shifted.shape[1])  # (V, T)
    rows = ([np.repeat(each[None], size, axis=0) for each in pair] for pair in zip(source, shifted))
    return np.stack([call(model, [*row, every]).T for row in rows])


@pytest.mark.recorded
def test_greedy_text_is_what_teacher_forcing_calls_likeliest(recipe, keras_run, hp, monkeypatch):
    name, calls, model = writer(recipe), [], keras_run.model
    if name is None:
        return
    decoded = []
    if hasattr(recipe, "greedy"):
        monkeypatch.setattr(recipe, "greedy", recorder(recipe.greedy, calls))
    else:
        make = recorder(recipe.decoder, calls)
        monkeypatch.setattr(recipe, "decoder", lambda *given, **options: recorder(make(*given, **options), decoded))
    texts = some_texts(recipe, hp)
    given = {"model": model, "assets": recipe.assets(hp) if hasattr(recipe, "assets") else {}, "beam_size": 1}
    write = getattr(recipe, name)
    with random_weights(model):
        write(**{each: given.get(each, texts) for each in parameters(write)})
        arguments, written = calls[0]
        if decoded:
            source, written = decoded[0][0]["source"], decoded[0][1]
            begin_and_end = recipe.START, recipe.END
            assert tuple(map(arguments.get, ("start", "end"), begin_and_end)) == begin_and_end
        else:
            source = next(iter(recipe.load_data(hp, "validation")))[0][0][: len(texts)].numpy()
            assert (arguments["tokens"].numpy() == recipe.START).all() and arguments["end_token"] == recipe.END
        written, source = np.asarray(written), np.asarray(source)
        shifted = np.pad(written[:, :-1], ((0, 0), (1, 0)), constant_values=recipe.START)
        scores = scores_of(model, source, shifted, hp.values.get("vocabulary_size"))
    ended = np.cumsum(written == recipe.END, axis=1) - (written == recipe.END) > 0
    chosen = np.take_along_axis(scores, written[..., None], axis=2)[..., 0]
    assert (chosen > scores.max(axis=2) - 1e-3)[~ended].all()
    assert not written[ended].any()
    assert len(np.unique(written)) > 3


def stand_in():
    """A recipe without a network, whose figure is its seed, plus what a variant adds."""

    def configure(hp):
        hp.Int("added", 0, 100, default=0)
        return hp

    return types.SimpleNamespace(
        PROMISE={
            "figure": {"metric": "accuracy", "better": "higher"},
            "monitor": {"metric": "val_accuracy", "better": "higher"},
            "baseline": {"metric": "constant", "name": "always 7"},
            "published": {"value": 0.5, "source": "nobody"},
            "data": ["environment/none"],
        },
        VARIANTS={"near": {"added": 2}, "far": {"added": 50}},
        SPLITS={"train": [0], "test": [1]},
        configure=configure,
        train=lambda hp, seed, callbacks: types.SimpleNamespace(seed=seed),
        validate=lambda model, hp: {"val_accuracy": model.seed / 10},
        evaluate=lambda model, hp: {"accuracy": model.seed + hp["added"], "constant": 7, "double": 2 * model.seed},
        save=lambda model, directory: (directory / "seed.txt").write_text(str(model.seed)),
        show=lambda model, hp: {},
    )


def test_seeds_and_variants_are_summed_up_as_they_were_measured(tmp_path, monkeypatch):
    times = itertools.count()

    def clocks():
        """Every run takes longer than the one before: 1 second, then 5, 9, 13 and so on."""
        seconds = next(times) ** 2
        return {"seconds": seconds, "cpu_seconds": 2 * seconds}

    monkeypatch.setattr(runs, "clocks", clocks)
    entry, recipe = types.SimpleNamespace(name="stand.in"), stand_in()
    measured = runs.execute(entry, recipe, {}, [0, 1, 2], tmp_path)
    results.record(measured, tmp_path)
    runs.compare_variants(entry, recipe, {}, 0, tmp_path, resume=False, own=False)
    recorded = results.read_json(tmp_path / "results.json")
    figure = {"name": "accuracy", "better": "higher", "values": [0, 1, 2], "mean": 1, "sd": 1}
    assert recorded["figure"] == figure and recorded["seeds"] == [0, 1, 2]
    assert recorded["metrics"] == {"accuracy": 1, "constant": 7, "double": 2}
    assert recorded["metrics_by_seed"]["double"] == [0, 2, 4]
    assert recorded["baseline"]["value"] == 7 and recorded["score"]["values"] == [0, 0.1, 0.2]
    assert (recorded["seconds"], recorded["cpu_seconds"]) == (5, 10)
    assert (tmp_path / "seed.txt").read_text() == "0"
    near, far = recorded["variants"]["near"], recorded["variants"]["far"]
    assert near["seeds"] == [0, 1, 2] and near["metrics_by_seed"]["accuracy"] == [2, 3, 4]
    assert near["values"] == {"added": 2} and near["metrics"]["accuracy"] == 3
    assert (near["seconds"], near["cpu_seconds"]) == (17, 34)
    assert far["seeds"] == [0] and far["metrics"] == {"accuracy": 50, "constant": 7, "double": 0}
    assert (far["seconds"], far["cpu_seconds"]) == (25, 50)


@pytest.mark.parametrize("name", ["recurrent.forecasting"])
def test_the_linear_baseline_is_fitted_to_training_windows_alone(recipe, tiny_run, hp, monkeypatch):
    read, windows = [], recipe.windows
    monkeypatch.setattr(recipe, "windows", lambda hp, split: read.append(split) or windows(hp, split))
    recipe.forecasts(tiny_run.model, hp, windows(hp, "test")[0])
    assert read == ["train"]
