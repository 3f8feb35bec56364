"""What holds for every recipe. They are found by walking the folder; none can be left out in silence."""

import ast
import importlib
import json
import pathlib
import sys

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from common import catalogue, copying, runner, settings
from conftest import KillAt, Killed
from recipes import __main__ as commands

# For the outputs that must not change when the named input gets more padding, and for those that must not see ahead.
# A recipe without sequences has an empty entry: the test below asserts that every recipe was thought of.
SEQUENCES = {
    "recurrent.anomaly_detection": {},
    "recurrent.captioning": {"causal": 1},
    "recurrent.forecasting": {},
    "recurrent.language_model": {"causal": 0},
    "recurrent.pretrained_language_model": {"padded": [0]},
    "recurrent.sentiment": {"padded": [0]},
    "recurrent.tagging": {},
    "recurrent.tree": {},
    "recurrent.vanishing_gradients": {},
    "seq2seq.addition": {"padded": [0], "causal": 1},
    "seq2seq.chatbot": {"padded": [0], "causal": 1},
    "seq2seq.question_answering": {"padded": [1]},
    "seq2seq.summarization": {"padded": [0], "causal": 1},
    "seq2seq.translation": {"padded": [0], "causal": 1},
    "vision.lenet": {},
    "vision.transfer_learning": {},
}


def test_every_recipe_file_is_exercised():
    root = pathlib.Path(__file__).resolve().parents[1] / "recipes"
    files = {f"{path.parent.name}.{path.stem}" for path in root.glob("*/*.py") if path.stem != "__init__"}
    assert files == {entry.name for entry in catalogue.entries()} == set(SEQUENCES)


def test_docstring_is_complete_and_its_result_is_the_recorded_one(entry):
    assert set(catalogue.FIELDS) <= set(entry.fields)
    assert entry.sentence.endswith(".") and len(entry.sentence) < 130
    assert f"python -m recipes.{entry.name}" in entry.docstring
    expected = catalogue.result_line(entry.results) if entry.results else "not measured yet"
    assert entry.fields["Result"] == expected


def test_recorded_results_are_those_of_the_recipe_as_it_stands(entry, recipe):
    if entry.results is None:
        pytest.skip(f"{entry.name} has no recorded results")
    results = entry.results
    assert results["recipe"] == entry.name
    assert results["hyperparameters"] == dict(settings.build(recipe.configure, {}).values)
    assert len(results["figure"]["values"]) == len(results["seeds"])
    assert results["figure"]["mean"] == pytest.approx(np.mean(results["figure"]["values"]))
    assert len(results["seeds"]) >= 3 or entry.promise["tolerance"] > 0
    assert results["anchor"] == entry.promise["anchor"]
    assert list(entry.directory.glob("*.png"))


def test_hyperparameters_have_defaults_in_their_ranges_and_are_all_reachable(recipe):
    hp = recipe.configure(keras_tuner.HyperParameters())
    names = [each.name for each in hp.space]
    assert len(names) == len(set(names)) and not any(each.conditions for each in hp.space)
    assert "examples" in names
    for each in hp.space:
        assert settings.parse(recipe.configure, [f"{each.name}={each.default}"]) == {each.name: each.default}
        source = pathlib.Path(recipe.__file__).read_text(encoding="utf-8")
        assert source.count(f'hp["{each.name}"]') >= 1, f"{each.name} is declared and never read"
    for values in [recipe.TINY, *getattr(recipe, "VARIANTS", {}).values()]:
        assert settings.parse(recipe.configure, catalogue.assignments(values).split()) == values


def test_the_model_builds_for_every_choice(recipe):
    space = recipe.configure(keras_tuner.HyperParameters()).space
    tried = [{}]
    for each in space:
        if isinstance(each, (keras_tuner.engine.hyperparameters.Choice, keras_tuner.engine.hyperparameters.Boolean)):
            tried += [{each.name: value} for value in each.values if value != each.default]
    for values in tried:
        model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, **values}))
        assert model.compiled and model.count_params() > 0, values
        keras.backend.clear_session()


def test_the_test_split_is_named_in_evaluate_alone(entry, tiny_run):
    for node in entry.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in ("evaluate", "load_data"):
            words = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert "test" not in words, f"{node.name} names the test split"
    assert "train" in tiny_run.splits_of_training and "test" not in tiny_run.splits_of_training


def test_a_tiny_run_leaves_its_files(entry, recipe, tiny_run):
    left = {path.name for path in tiny_run.out.iterdir()}
    assert {"model.keras", "history.csv", "curve.png", "logs"} <= left and "backup" not in left
    if hasattr(recipe, "assets"):
        assert set(recipe.assets(settings.build(recipe.configure, recipe.TINY))) <= left
    assert any(name.endswith(".png") for name in left - {"curve.png"})
    results = tiny_run.results
    assert json.loads(json.dumps(results)) == results
    keys = {
        "figure",
        "metrics",
        "baseline",
        "anchor",
        "seeds",
        "seconds",
        "cpu_seconds",
        "hyperparameters",
        "data",
        "machine",
        "versions",
    }
    assert keys <= set(results)
    assert all(np.isfinite(value) for value in results["metrics"].values())
    assert set(results["data"]) == set(entry.promise["data"])


def test_every_trainable_weight_moves(recipe, tiny_run):
    hp = settings.build(recipe.configure, recipe.TINY)
    keras.utils.set_random_seed(0)
    fresh = recipe.build_model(hp).weights
    still = [
        before.path
        for before, after in zip(fresh, tiny_run.model.weights, strict=True)
        if before.trainable and np.array_equal(keras.ops.convert_to_numpy(before), keras.ops.convert_to_numpy(after))
    ]
    assert not still, f"not trained: {still}"


def test_a_killed_run_resumes_to_the_same_weights_and_results(name, entry, recipe, tiny_run, tmp_path, monkeypatch):
    original = recipe.train
    fits = []

    def killed_later(hp, seed, callbacks):
        def with_a_kill(stage, examples):
            fits.append(stage)
            kill = {1: KillAt(1), 2: KillAt(0)}.get(len(fits), KillAt(None))
            return [*callbacks(stage, examples), kill]

        return original(hp, seed, with_a_kill)

    monkeypatch.setattr(recipe, "train", killed_later)
    with pytest.raises(Killed):
        runner.execute(entry, recipe, recipe.TINY, [0], tmp_path)
    monkeypatch.setattr(recipe, "train", original)
    monkeypatch.setattr(recipe, "show", lambda model, hp: {})  # Pictures take a while and are not compared.
    results = runner.execute(entry, recipe, recipe.TINY, [0], tmp_path, resume=True)
    assert results["metrics"] == tiny_run.results["metrics"]
    assert results["score"] == tiny_run.results["score"]
    expected, found = (keras.models.load_model(folder / "model.keras") for folder in (tiny_run.out, tmp_path))
    for one, other in zip(expected.weights, found.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


LOAD = """
import pathlib, sys, keras, numpy as np
folder = pathlib.Path(sys.argv[1])
models = {path.name: keras.models.load_model(path, safe_mode=True) for path in folder.glob("*.keras")}
with np.load(folder / "inputs.npz") as saved:
    inputs = [saved[name] for name in saved.files]
outputs = models["model.keras"](inputs if len(inputs) > 1 else inputs[0], training=False)
np.save(folder / "outputs.npy", outputs[0] if isinstance(outputs, (tuple, list)) else outputs)
"""


def first_batch(recipe, model, hp):
    """The model's inputs for some validation examples, as a list of arrays; zeros for first states."""
    inputs = next(iter(recipe.load_data(hp, "validation")))[0]
    inputs = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    states = [np.zeros((len(inputs[0]), each.shape[-1]), "float32") for each in model.inputs[len(inputs) :]]
    return [np.asarray(each) for each in inputs] + states


def call(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return np.asarray(outputs[0] if isinstance(outputs, (tuple, list)) else outputs)


def test_the_saved_model_gives_the_same_outputs_in_another_process(recipe, tiny_run, process_of_models, tmp_path):
    hp = settings.build(recipe.configure, recipe.TINY)
    inputs = first_batch(recipe, tiny_run.model, hp)
    np.savez(tiny_run.out / "inputs.npz", *inputs)
    (tmp_path / "load.py").write_text(LOAD)
    process_of_models.run(tmp_path / "load.py", tiny_run.out, folder=tmp_path)
    expected = call(tiny_run.model, inputs)
    np.testing.assert_allclose(np.load(tiny_run.out / "outputs.npy"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, inputs in SEQUENCES.items() if "padded" in inputs])
def test_more_padding_changes_no_output(name, recipe, tiny_run):
    inputs = first_batch(recipe, tiny_run.model, settings.build(recipe.configure, recipe.TINY))
    expected = call(tiny_run.model, inputs)
    for index in SEQUENCES[name]["padded"]:
        longer = list(inputs)
        longer[index] = np.pad(inputs[index], ((0, 0), (0, 5)))
        np.testing.assert_allclose(call(tiny_run.model, longer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, inputs in SEQUENCES.items() if "causal" in inputs])
def test_causal_outputs_do_not_see_ahead(name, recipe, tiny_run):
    index = SEQUENCES[name]["causal"]
    inputs = first_batch(recipe, tiny_run.model, settings.build(recipe.configure, recipe.TINY))
    expected = call(tiny_run.model, inputs)
    cut = inputs[index].shape[1] // 2
    changed = list(inputs)
    changed[index] = inputs[index].copy()
    changed[index][:, cut:] = inputs[index][:, cut:][:, ::-1] + 1
    found = call(tiny_run.model, changed)
    np.testing.assert_allclose(found[:, :cut], expected[:, :cut], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[:, cut:], expected[:, cut:])


def test_the_copy_runs_in_an_empty_folder_and_gives_the_recipe_s_figures(name, tiny_run, process_of_copies, tmp_path):
    file = tmp_path / "copied.py"
    assert commands.main(["copy", name, str(file)]) == 0
    output = process_of_copies.run(file, "--tiny", "--seed", "0", folder=tmp_path)
    for metric, value in tiny_run.results["metrics"].items():
        assert f"{metric:24} {value:.6g}" in output
    assert (tmp_path / "copied" / "model.keras").exists()


def test_every_import_has_its_line_in_the_requirements(entry):
    imports = [node for node in entry.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    listed_elsewhere = {*sys.stdlib_module_names, "common", "numpy"}  # TensorFlow brings NumPy.
    for node in imports:
        root = (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        assert root in listed_elsewhere or copying.requirements(ast.unparse(node)), root


@pytest.mark.parametrize("name", ["vision.transfer_learning"])
def test_a_frozen_base_does_not_move_and_a_fine_tuned_one_does(tiny_run):
    metrics = tiny_run.results["metrics"]
    still = ("frozen-weights-moved", "frozen-statistics-moved", "fine-tuned-statistics-moved")
    assert [metrics[name] for name in still] == [0, 0, 0]
    assert metrics["fine-tuned-weights-moved"] > 0


@pytest.mark.parametrize("name", ["seq2seq.chatbot", "seq2seq.summarization"])
def test_every_token_weighs_the_same_in_every_batch(recipe, tiny_run):
    hp = settings.build(recipe.configure, recipe.TINY)
    lengths, weights = set(), []
    for inputs, target, weight in recipe.load_data(hp, "train").take(8):
        tiny_run.model.reset_metrics()
        found = tiny_run.model.test_on_batch(inputs, target, sample_weight=weight, return_dict=True)
        nats = found["nats"] if "nats" in found else np.log(found["perplexity"])
        tokens = np.count_nonzero(weight)
        lengths.add(tokens / len(target))
        weights.append(found["loss"] / (nats * tokens))
    assert max(lengths) > 2 * min(lengths)
    np.testing.assert_allclose(weights, weights[0], rtol=1e-4)


def test_other_names_are_traded_one_for_one():
    recipe = importlib.import_module("recipes.seq2seq.question_answering")
    words = sorted({"went", "to", "the", "where", "is", *(name for names in recipe.EXCHANGEABLE for name in names)})
    stories = tf.RaggedTensor.from_row_lengths(
        recipe.encode(["Mary took the milk.", "Mary went to the kitchen."], words), [2]
    )
    question, answer = recipe.encode(["Where is the milk?"], words), recipe.encode(["kitchen"], words)[:, 0]
    stories, questions, answers = recipe.rename(stories, question, answer, words, times=30)
    texts = [np.concatenate([np.ravel(story), *rest]) for *rest, story in zip(questions, answers[:, None], stories)]
    rows = [{words.index(name) + 2 for name in names} for names in recipe.EXCHANGEABLE]
    assert len({tuple(text) for text in texts}) > 20
    for text in texts:
        new, old = dict(zip(texts[0], text)), dict(zip(text, texts[0]))
        assert all(old[new[token]] == token for token in new)
        for token, other in new.items():
            assert token == other or any({token, other} <= row for row in rows)
