"""What holds for every recipe. They are found by walking the folder; none can be left out in silence."""

import ast
import collections
import importlib
import inspect
import io
import json
import sys
import zipfile

import h5py
import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers

from common.cookbook import answers, catalogue, copying, results, settings
from common.decoding import decoder


@pytest.mark.recorded
def test_docstring_is_complete_and_its_result_is_the_recorded_one(entry):
    assert set(catalogue.FIELDS) <= set(entry.fields)
    assert entry.sentence.endswith(".") and len(entry.sentence) < 130
    assert f"python -m recipes.{entry.name}" in entry.docstring
    expected = results.result_line(entry.results) if entry.results else answers.UNMEASURED
    assert entry.fields["Result"] == expected
    answered = answers.fill(entry.answers, entry.results)
    assert entry.fields["Answers"] == " ".join(f"{question} {answer}" for question, answer in answered.items())


@pytest.mark.recorded
def test_every_answer_rests_on_measured_numbers_and_claims_no_more_than_they_show(entry, recipe):
    asked = entry.answers
    named = {variant for sentence in asked.values() for variant, _ in answers.compared(sentence)}
    assert named <= set(getattr(recipe, "VARIANTS", {}))
    assert 2 <= len(asked) <= 8 and all(question.endswith("?") for question in asked)
    assert answers.complaints(entry.answers, entry.results) == []


@pytest.mark.recorded
def test_recorded_results_are_those_of_the_recipe_as_it_stands(entry, recipe):
    if entry.results is None:
        pytest.skip(f"{entry.name} has no recorded results")
    recorded = entry.results
    assert recorded["recipe"] == entry.name
    assert recorded["hyperparameters"] == dict(settings.build(recipe.configure, {}).values)
    assert len(recorded["figure"]["values"]) == len(recorded["seeds"])
    assert recorded["figure"]["mean"] == pytest.approx(np.mean(recorded["figure"]["values"]))
    assert len(recorded["seeds"]) >= 3 or entry.promise["tolerance"] > 0
    assert recorded["published"] == entry.promise["published"]
    assert recorded["tolerance"] == entry.promise.get("tolerance", 0.0)
    assert list(entry.directory.glob("*.png"))


@pytest.mark.recorded
def test_a_recipe_has_the_shape_and_the_length_of_one(entry):
    lines = entry.path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 280
    order = [node.name for node in entry.tree.body if isinstance(node, ast.FunctionDef)]
    shape = ["configure", "build_model", "load_data", "train", "evaluate", "show"]
    assert [name for name in order if name in shape] == [name for name in shape if name in order]
    # One line of the recipe is the cookbook's, below the main guard; no recipe imports another.
    imported = [node.module for node in ast.walk(entry.tree) if isinstance(node, ast.ImportFrom)]
    assert imported.count("common.cookbook.command_line") == 1
    assert not any(module.startswith("recipes") for module in imported)
    assert lines[-4:-1] == ['if __name__ == "__main__":', "    from common.cookbook.command_line import main", ""]


def test_the_common_modules_import_neither_the_cookbook_nor_a_recipe():
    for path in (catalogue.ROOT / "common").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                assert not any("cookbook" in name or name.startswith("recipes") for name in names), path


def test_hyperparameters_have_defaults_in_their_ranges_and_are_all_reachable(entry, recipe):
    hp = recipe.configure(keras_tuner.HyperParameters())
    names = [each.name for each in hp.space]
    assert len(names) == len(set(names)) and not any(each.conditions for each in hp.space)
    source = entry.path.read_text(encoding="utf-8")
    for each in hp.space:
        assert settings.parse(recipe.configure, [f"{each.name}={each.default}"]) == {each.name: each.default}
        assert source.count(f'hp["{each.name}"]') >= 1, f"{each.name} is declared and never read"
    for values in [recipe.TINY, *getattr(recipe, "VARIANTS", {}).values()]:
        assert settings.parse(recipe.configure, results.assignments(values).split()) == values
    assert set(entry.pinned) <= set(names) and set(getattr(recipe, "PINNED", ())) <= set(entry.pinned)


def test_the_model_builds_for_every_choice_and_as_keras_tuner_does_it(entry, recipe, hp, tmp_path):
    if not hasattr(recipe, "build_model"):
        return
    monitor = entry.promise["monitor"]
    objective = keras_tuner.Objective(monitor["metric"], {"higher": "max", "lower": "min"}[monitor["better"]])
    # A tuner builds a first model to see that it can.
    keras_tuner.RandomSearch(recipe.build_model, objective, max_trials=1, hyperparameters=hp, directory=tmp_path)
    tried = []
    for each in hp.space:
        if not hasattr(each, "min_value"):
            tried += [{each.name: value} for value in each.values if value != hp[each.name]]
    for values in tried:
        model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, **values}))
        assert model.compiled and model.count_params() > 0, values
        keras.backend.clear_session()


def test_the_test_split_is_named_in_evaluate_alone(entry, tiny_run):
    for node in entry.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in ("evaluate", "load_data"):
            words = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert "test" not in words, f"{node.name} names the test split"
    assert "test" not in tiny_run.splits_of_training
    assert "train" in tiny_run.splits_of_training or not hasattr(tiny_run.recipe, "load_data")


def test_a_tiny_run_leaves_its_files(entry, recipe, tiny_run, hp):
    left = {path.name for path in tiny_run.out.iterdir()}
    if isinstance(tiny_run.model, keras.Model):
        assert {"model.keras", "history.csv", "logs"} <= left
    assert "backup" not in left
    if hasattr(recipe, "assets"):
        assert set(recipe.assets(hp)) <= left
    endings = (".png", ".txt") if entry.name.startswith("kinds") else (".png",)
    assert any(name.endswith(endings) for name in left - {"curve.png"})
    measured = tiny_run.results
    assert json.loads(json.dumps(measured)) == measured
    keys = {
        "figure",
        "metrics",
        "baseline",
        "published",
        "seeds",
        "seconds",
        "cpu_seconds",
        "score",
        "hyperparameters",
        "data",
        "machine",
        "versions",
    }
    assert keys <= set(measured)
    assert all(np.isfinite(value) for value in measured["metrics"].values())
    assert set(measured["data"]) == set(entry.promise["data"])


def test_every_trainable_weight_of_every_fit_moves(keras_run):
    weights = keras_run.first_weights.seen.values()
    still = [each.path for each, before in weights if np.array_equal(keras.ops.convert_to_numpy(each), before)]
    assert weights and not still, f"not trained: {still}"


def weights_in(path):
    """The weights that a `.keras` file holds, by name."""
    arrays = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda name, each: arrays.update({name: each[()]}) if isinstance(each, h5py.Dataset) else None)
    return arrays


def test_a_killed_and_resumed_run_equals_a_copy_that_ran_through(entry, tiny_run, process_of_copies, tmp_path):
    """In an empty folder, in a process that knows nothing of the cookbook: the same figures and weights."""
    assert tiny_run.killed or not isinstance(tiny_run.model, keras.Model)
    copying.copy(entry, tmp_path / "copied.py")
    output = process_of_copies.run(tmp_path / "copied.py", "--tiny", "--seed", "0", folder=tmp_path)
    # How fast something is is never the same twice.
    timed = [name for name in tiny_run.results["metrics"] if name.startswith("speed") or name.endswith("seconds")]
    metrics = {name: value for name, value in tiny_run.results["metrics"].items() if name not in timed}
    for metric, value in metrics.items():
        assert f"{metric:24} {value:.6g}" in output
    figures = json.loads((tmp_path / "copied" / "figures.json").read_text())
    assert figures.keys() == tiny_run.results["metrics"].keys()
    assert {name: figures[name] for name in metrics} == pytest.approx(metrics, rel=1e-6)
    for path in tiny_run.out.glob("*.keras"):
        expected, found = weights_in(path), weights_in(tmp_path / "copied" / path.name)
        assert list(expected) == list(found)
        for name, weight in expected.items():
            # Threads may add numbers in another order, which about one run in twelve of `diffusion` shows.
            np.testing.assert_allclose(weight, found[name], rtol=1e-5, atol=1e-7, err_msg=f"{path.name}: {name}")


@pytest.mark.parametrize("name", ["kinds.counting"])
def test_in_a_copy_given_values_go_before_those_of_a_tiny_run(entry, process_of_copies, tmp_path):
    copying.copy(entry, tmp_path / "mine.py")
    process_of_copies.run(tmp_path / "mine.py", "--tiny", "--set", "leaves=30", folder=tmp_path)
    values = json.loads((tmp_path / "mine" / "run.json").read_text())["hyperparameters"]
    assert values["leaves"] == 30 and values["examples"] == 150


def test_a_copy_adds_little_to_the_recipe_and_what_it_names(entry, tmp_path):
    copying.copy(entry, tmp_path / "copied.py")
    recipe = copying.Module(entry.path)
    named = [*copying.gather(recipe)[0], *copying.shared_settings()]
    lines = len((tmp_path / "copied.py").read_text().splitlines())
    # Between two definitions stand two empty lines.
    beyond = lines - len(recipe.lines) - sum(len(text.splitlines()) + 2 for text in named)
    assert beyond <= 55
    copied = ast.parse((tmp_path / "copied.py").read_text())
    defined = [node.name for node in copied.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    targets = [target for node in copied.body if isinstance(node, ast.Assign) for target in node.targets]
    defined += [target.id for target in targets if isinstance(target, ast.Name)]
    assert len(defined) == len(set(defined)), "a name of the recipe's is one of common's too"


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
    """The model's inputs for some validation examples, as a list of arrays; noise where the data are no input of it.

    Noise stands for the states before the first token, and for what a generator makes images of.
    """
    batch = next(iter(recipe.load_data(hp, "validation"))) if hasattr(recipe, "load_data") else np.zeros((3, 1))
    found = batch[0] if isinstance(batch, tuple) else batch
    found = [np.asarray(each) for each in (found if isinstance(found, (tuple, list)) else [found])]
    inputs = []
    for index, expected in enumerate(model.inputs):
        shape = found[index].shape if index < len(found) else ()
        fits = len(shape) == len(expected.shape) and all(b in (None, a) for a, b in zip(shape[1:], expected.shape[1:]))
        noise = np.random.default_rng(index).normal(size=(len(found[0]), *expected.shape[1:])) if not fits else None
        inputs.append(found[index] if fits else noise.astype("float32"))
    return inputs


def call(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return np.asarray(outputs[0] if isinstance(outputs, (tuple, list)) else outputs)


def test_the_saved_model_gives_the_same_outputs_in_another_process(recipe, keras_run, hp, process_of_models, tmp_path):
    inputs = first_batch(recipe, keras_run.model, hp)
    np.savez(keras_run.out / "inputs.npz", *inputs)
    (tmp_path / "load.py").write_text(LOAD)
    process_of_models.run(tmp_path / "load.py", keras_run.out, folder=tmp_path)
    expected = call(keras_run.model, inputs)
    np.testing.assert_allclose(np.load(keras_run.out / "outputs.npy"), expected, rtol=1e-5, atol=1e-6)


def is_shifted(tensor):
    """Whether an input is read one token late, as a decoder reads its own answer: its outputs must not see ahead."""
    return tensor.name.startswith("shifted_")


def sequences(model):
    """The inputs of tokens that have an axis of unknown length, as {index: axes}; a decoder's own are left out."""
    answers = {each.name.removeprefix("shifted_") for each in model.inputs if is_shifted(each)}
    found = {}
    for index, each in enumerate(model.inputs):
        axes = [axis for axis, length in enumerate(each.shape) if axis > 0 and length is None]
        if axes and "int" in str(each.dtype) and not is_shifted(each) and each.name not in answers:
            found[index] = axes
    return found


def test_more_padding_changes_no_output(recipe, keras_run, hp):
    check_padding(recipe, keras_run.model, hp)


def check_padding(recipe, model, hp):
    found = sequences(model)
    inputs = first_batch(recipe, model, hp) if found else []
    expected = call(model, inputs) if found else None
    for index, axes in found.items():
        for axis in axes:
            longer = list(inputs)
            longer[index] = np.pad(inputs[index], [(0, 5 if each == axis else 0) for each in range(inputs[index].ndim)])
            outputs = call(model, longer)[tuple(slice(length) for length in expected.shape)]
            np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_whole_words_are_dropped(recipe):
    hp = settings.build(recipe.configure, recipe.TINY)
    if "word_dropout" in hp.values:
        model = recipe.build_model({**hp.values, "word_dropout": 0.375})
        found = [each for each in model._flatten_layers() if isinstance(each, layers.Dropout) and each.rate == 0.375]
        assert found
        for layer in found:
            shape = len(layer.input.shape) * (30,)
            kept = np.asarray(layer(np.ones(shape, "float32"), training=True))
            kept = kept.reshape(-1, 30 if len(shape) > 2 or layer.noise_shape else 1)
            assert (kept == kept[:, :1]).all() and 0.2 < np.mean(kept > 0) < 0.95


def test_causal_outputs_do_not_see_ahead(recipe, keras_run, hp):
    check_causality(recipe, keras_run.model, hp)


def check_causality(recipe, model, hp):
    shifted = [index for index, each in enumerate(model.inputs) if is_shifted(each)]
    inputs = first_batch(recipe, model, hp) if shifted else []
    expected = call(model, inputs) if shifted else None
    for index in shifted:
        cut = inputs[index].shape[1] // 2
        changed = list(inputs)
        changed[index] = inputs[index].copy()
        changed[index][:, cut:] = inputs[index][:, cut:][:, ::-1] + 1
        found = call(model, changed)
        np.testing.assert_allclose(found[:, :cut], expected[:, :cut], rtol=1e-4, atol=1e-5)
        assert not np.allclose(found[:, cut:], expected[:, cut:])


def test_the_network_of_a_variant_with_a_mask_reads_neither_padding_nor_ahead(recipe, keras_run):
    used = inspect.getsource(getattr(recipe, "build_model", check_padding))
    for changes in getattr(recipe, "VARIANTS", {}).values():
        if "mask" not in changes and any(f'"{name}"' in used for name in changes):
            hp = settings.build(recipe.configure, {**changes, **recipe.TINY})
            model = recipe.build_model(hp)
            if getattr(model, "inputs", None):
                check_padding(recipe, model, hp)
                check_causality(recipe, model, hp)


@pytest.mark.recorded
def test_encoder_decoders_and_taggers_are_among_the_sequences_found(entry, recipe, keras_run):
    """The two tests above derive what to look at; this one sees that they find it where the batches are padded."""
    calls = {node.func.id for node in ast.walk(entry.tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
    assert "bucket" not in calls or sequences(keras_run.model) or entry.name == "recurrent.tree"
    assert "shift_right" not in calls or any(map(is_shifted, keras_run.model.inputs))


def test_every_import_has_its_line_in_the_requirements(entry):
    imports = [node for node in entry.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in imports:
        root = (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        assert root in {*sys.stdlib_module_names, "common"} or copying.requirements(ast.unparse(node)), root


@pytest.mark.parametrize("name", ["vision.digit_transfer", "vision.transfer_learning"])
def test_a_frozen_base_does_not_move_and_a_fine_tuned_one_does(tiny_run):
    metrics = tiny_run.results["metrics"]
    still = ("frozen-weights-moved", "frozen-statistics-moved", "fine-tuned-statistics-moved")
    assert [metrics[name] for name in still] == [0, 0, 0]
    assert metrics["fine-tuned-weights-moved"] > 0


@pytest.mark.parametrize("name", ["seq2seq.chatbot", "seq2seq.summarization", "seq2seq.translation"])
def test_every_token_weighs_the_same_in_every_batch(recipe, tiny_run, hp):
    model = recipe.build_model({**hp.values, "label_smoothing": 0.0})
    lengths, weights = set(), []
    for inputs, target, weight in recipe.load_data(hp, "train").take(8):
        model.reset_metrics()
        found = model.test_on_batch(inputs, target, sample_weight=weight, return_dict=True)
        nats = found["nats"] if "nats" in found else np.log(found["perplexity"])
        tokens = np.count_nonzero(weight)
        lengths.add(tokens / len(target))
        weights.append(found["loss"] / (nats * tokens))
    assert max(lengths) > 2 * min(lengths)
    np.testing.assert_allclose(weights, weights[0], rtol=1e-4)


STORY = {
    "story": ["Mary took the milk.", "Mary went to the kitchen."],
    "question": "Where is the milk?",
    "answer": "kitchen",
}


def renamed(recipe, seed):
    """`STORY` and 29 copies with other names: their tokens (30, N), and the vocabulary."""
    keras.utils.set_random_seed(seed)
    words = sorted({"went", "to", "the", "where", "is", *(name for names in recipe.EXCHANGEABLE for name in names)})
    stories, questions, answers = recipe.rename(*recipe.encode([STORY], words), words, times=30)
    return np.column_stack([np.reshape(stories.to_tensor(), (30, -1)), questions, answers]), words


@pytest.mark.parametrize("values", [{}, {"attention": "additive"}, {"attention": "none"}, {"feed_context": False}])
def test_translations_are_what_teacher_forcing_calls_likeliest_whatever_the_padding(values):
    recipe = importlib.import_module("recipes.seq2seq.translation")
    keras.utils.set_random_seed(1)
    model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, **values}))
    source = np.array([[40, 50, 60, 70, 2, 0, 0], [80, 90, 45, 55, 65, 75, 2]], "int32")
    decode = decoder(model, recipe.START, recipe.END, 9, alpha=1.0)
    written = decode(source)
    logits = call(model, [source, np.pad(written[:, :-1], ((0, 0), (1, 0)), constant_values=recipe.START)])
    real = written != 0
    np.testing.assert_array_equal(logits.argmax(axis=-1)[real], written[real])
    np.testing.assert_array_equal(decode(np.pad(source, ((0, 0), (0, 4)))), written)
    assert (written[0] != written[1]).any() and len(np.unique(written)) > 4


def test_the_context_reaches_the_decoder_s_second_layer_only_if_it_is_fed_back():
    recipe = importlib.import_module("recipes.seq2seq.translation")
    inputs = {}
    for feed in (True, False):
        model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "feed_context": feed}))
        inputs[feed] = model.get_layer("answer").input[0].shape[-1]
    assert inputs == {True: 2 * recipe.TINY["units"], False: recipe.TINY["units"]}


def test_the_turns_of_a_dialogue_are_told_apart_even_if_the_first_is_cut():
    recipe = importlib.import_module("recipes.seq2seq.chatbot")
    model = recipe.build_model(settings.build(recipe.configure, recipe.TINY))
    model.get_layer("attention").scale.assign(0.0)  # Makes attention uniform.
    user, system = (len(recipe.SPECIAL) + place for place in range(2))
    history = np.array([[9, 9, system, 9, user, 9], [user, 9, 9, 0, 0, 0]], "int32")
    reply = np.array([[7, 8, 2], [7, 2, 0]], "int32")
    found = recipe.attention_to_user(model, [((history, reply), reply, None)])
    assert found == pytest.approx(dict.fromkeys(("attention_to_user", "uniform_to_user"), (3 * 4 / 6 + 2) / 5))


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_trees_and_sequences_train_on_the_same_phrases_with_the_same_labels_and_weights(recipe, tiny_run):
    seen, sentences, batches = {}, {}, {}
    for network in ("tree", "sequence"):
        hp = settings.build(recipe.configure, {**recipe.TINY, "network": network})
        seen[network], sentences[network] = collections.Counter(), collections.Counter()
        data = recipe.load_data(hp, "train")
        batches[network] = int(data.cardinality())
        for (words, roots, *rest), (labels, of_sentences), *weights in data.as_numpy_iterator():
            if network == "tree":
                places, *levels = rest
                forest = [(word,) for word in words]
                for children in levels:
                    forest += [forest[left] + forest[right] for left, right in children]
                phrases = [forest[place] for place in places]
            else:
                phrases = [tuple(row[row > 0]) for row in words]
            for phrase, label, weight in zip(phrases, labels, weights[0] if weights else np.ones(len(labels))):
                seen[network][phrase, label] += weight
            sentences[network].update((phrases[root], label) for root, label in zip(roots, of_sentences))
    assert seen["tree"] == pytest.approx(seen["sequence"])
    assert len(seen["tree"]) > 50 and sentences["tree"] == sentences["sequence"]
    # Where a bucket's phrases do not fill its last batch there is one more.
    assert batches["tree"] <= batches["sequence"] <= batches["tree"] + len(recipe.BUCKETS) + 1


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_a_tree_is_judged_alike_alone_and_in_a_forest(recipe, tiny_run, hp):
    inputs, _, _ = next(iter(recipe.load_data(hp, "validation")))
    together = keras.ops.convert_to_numpy(keras.ops.softmax(tiny_run.model(inputs, training=False)[0]))
    trees = recipe.read("validation", hp["examples"], hp["height"])
    each = [{name: rows[place : place + 1] for name, rows in trees.items()} for place in range(len(inputs[1]))]
    alone = np.concatenate([recipe.judge(tiny_run.model, recipe.assets(hp), tree) for tree in each])
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert len(each) > 1 and np.ptp(alone, axis=0).max() > 1e-3


@pytest.mark.parametrize("name", ["recurrent.tree"])
def test_more_padding_changes_no_output_of_the_sequence_network(recipe, tiny_run):
    hp = settings.build(recipe.configure, {**recipe.TINY, "network": "sequence"})
    model = recipe.build_model(hp)
    for (words, roots), _ in recipe.load_data(hp, "validation").as_numpy_iterator():
        longer = np.pad(words, ((0, 0), (0, 5)))
        np.testing.assert_allclose(call(model, [words, roots]), call(model, [longer, roots]), rtol=1e-4, atol=1e-6)


def test_other_names_are_traded_one_for_one():
    recipe = importlib.import_module("recipes.seq2seq.question_answering")
    texts, words = renamed(recipe, seed=0)
    rows = [{words.index(name) + 2 for name in names} for names in recipe.EXCHANGEABLE]
    assert len({tuple(text) for text in texts}) > 20
    for text in texts:
        # Every pair of places: equal words stay equal, different ones different, and none leaves its row.
        assert np.array_equal(texts[0][:, None] == texts[0], text[:, None] == text)
        for token, other in zip(texts[0], text):
            assert token == other or any({token, other} <= row for row in rows)


def test_every_seed_trades_other_names():
    recipe = importlib.import_module("recipes.seq2seq.question_answering")
    first, again, other = (renamed(recipe, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], other[0])
    assert (first[1:] != other[1:]).any(axis=1).sum() > 20


def test_what_the_trees_see_does_not_depend_on_the_names():
    recipe = importlib.import_module("recipes.seq2seq.question_answering")
    trade = {"mary": "fred", "milk": "apple", "kitchen": "garden"}
    traded = {**STORY, "story": ["Fred took the apple.", "Fred went to the garden."], "question": "Where is the apple?"}
    (clues, numbers), (other_clues, other_numbers) = map(recipe.find_clues, (STORY, traded))
    assert clues == other_clues and set(trade) == set(numbers)
    assert {trade[name]: number for name, number in numbers.items()} == other_numbers


@pytest.mark.parametrize("reader", ["memory", "lstm"])
def test_a_reader_of_stories_ignores_padding_and_nothing_else(reader):
    recipe = importlib.import_module("recipes.seq2seq.question_answering")
    keras.utils.set_random_seed(0)
    model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "reader": reader}))
    generator = np.random.default_rng(0)
    story, question = generator.integers(2, recipe.VOCABULARY_SIZE, (2, 4, 7)), np.arange(2, 16).reshape(2, 7)
    story[1, 2:] = 0
    expected = call(model, [story, question])
    padded = call(model, [np.pad(story, ((0, 0), (0, 3), (0, 0))), question])
    np.testing.assert_allclose(padded, expected, rtol=1e-4, atol=1e-5)
    for changed in ([story[:, ::-1], question], [story, question[:, ::-1]]):
        assert not np.allclose(call(model, changed)[0], expected[0], rtol=1e-2)


def test_a_lost_mask_is_no_mask_and_an_explicit_one_makes_padding_weightless():
    recipe = importlib.import_module("recipes.recurrent.masking")
    tokens = np.pad(np.arange(2, 12).reshape(2, 5), ((0, 0), (0, 7)))
    outputs = {}
    for name in ("explicit", "lost", "none"):
        keras.utils.set_random_seed(0)
        model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "mask": name}))
        outputs[name] = [call(model, [each]) for each in (tokens, tokens[:, :5])]
    np.testing.assert_array_equal(outputs["lost"], outputs["none"])
    np.testing.assert_allclose(*outputs["explicit"], rtol=1e-6)
    assert not np.allclose(*outputs["none"], rtol=1e-2)


def test_without_a_mask_the_recurrent_network_reads_padding():
    recipe = importlib.import_module("recipes.recurrent.sentiment")
    tokens = np.pad(np.arange(2, 12).reshape(2, 5), ((0, 0), (0, 11)))
    for mask in (True, False):
        keras.utils.set_random_seed(0)
        model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "mask": mask}))
        padded, cut = (call(model, [each]) for each in (tokens, tokens[:, :5]))
        assert np.allclose(padded, cut, rtol=1e-5) == mask


@pytest.mark.parametrize("name", ["recurrent.sentiment"])
def test_the_bag_beside_the_network_is_the_linear_classifier(recipe, keras_run, hp):
    counter, weights = recipe.bag(hp["examples"])
    texts, labels = recipe.read("train", hp["examples"])
    found = counter.transform(recipe.clean(texts).numpy())  # Its own count of what each review contains.
    expected = found @ weights / np.sqrt(np.diff(found.indptr))
    assert np.mean((expected > 0) == labels) > 0.95
    words = recipe.vocabulary(hp["examples"], hp["vocabulary_size"])
    inputs = [recipe.tokens_of(texts, words).to_tensor(), recipe.ngrams_of(texts, counter).to_tensor()]
    _, log_odds = keras_run.model(inputs, training=False)
    np.testing.assert_allclose(log_odds[:, 1], expected, rtol=1e-4, atol=1e-5)


def test_whitening_makes_the_colours_of_neighbouring_pixels_nearly_uncorrelated():
    recipe = importlib.import_module("recipes.vision.resnet")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(200, 32, 32, 3)) @ np.diag([50.0, 35.0, 25.0])  # Channels of different scales.
    images = np.clip(120 + images + np.roll(images, 1, axis=1) + 0.5 * np.roll(images, 1, axis=2), 0, 255)
    layer = keras.layers.Conv2D(24, 2, use_bias=False)
    layer.build((None, 32, 32, 3))
    layer.kernel.assign(recipe.whitening_filters(images))
    maps = keras.ops.convert_to_numpy(layer(((images - recipe.MEAN) / recipe.DEVIATION).astype("float32")))
    moments = np.einsum("nhwi,nhwj->ij", maps, maps) / maps[..., 0].size
    np.testing.assert_allclose(moments[:12, :12], np.eye(12), atol=0.06)
    np.testing.assert_allclose(moments[:12, 12:], -moments[:12, :12], atol=1e-4)


@pytest.mark.parametrize("name", ["recurrent.language_model"])
def test_every_epoch_reads_the_whole_text_once_from_another_place(recipe, tiny_run, hp):
    text, batches = recipe.load_text(hp, "train"), recipe.load_data(hp, "train")
    read = []
    for _ in range(3):
        # A row of the first batch goes on in the same row of the next.
        rows = [np.concatenate(each, axis=1).ravel() for each in zip(*batches.as_numpy_iterator())]
        characters, targets, weights = (row[: len(text)] for row in rows)
        assert weights.all() and rows[2].sum() == len(text)
        np.testing.assert_array_equal(targets, np.roll(characters, -1))
        read.append("".join(recipe.VOCABULARY[index] for index in characters))
        assert read[-1] in text + text
    assert len(set(read)) == 3


@pytest.mark.parametrize("name", ["transformers.gpt"])
def test_every_epoch_cuts_the_whole_text_into_windows_at_other_places(recipe, hp, monkeypatch):
    text = "".join(np.random.default_rng(0).choice(list(recipe.VOCABULARY), hp["examples"]))
    monkeypatch.setattr(recipe, "load_text", lambda hp, split: text)
    batches, epochs = recipe.load_data(hp, "train"), []
    for _ in range(3):
        places = set()
        for characters, targets, weights in batches.unbatch().as_numpy_iterator():
            characters, targets = ("".join(recipe.VOCABULARY[index] for index in row) for row in (characters, targets))
            if weights.all():
                places.add((text + text).index(characters[0] + targets) % len(text))
                assert characters[1:] == targets[:-1]
            else:
                kept = int(weights.sum())
                assert weights[:kept].all() and characters[0] + targets[:kept] in text + text
        epochs.append(frozenset(places))
        rest = len(text) - len(places) * hp["context"]
        assert 0 < rest == kept < hp["context"]
        # From one window to the next is a context, but for the place where the short one stands.
        steps = np.diff(sorted(places), append=min(places) + len(text))
        assert sorted(steps) == [hp["context"]] * (len(places) - 1) + [hp["context"] + rest]
    assert len(set(epochs)) == 3


@pytest.mark.parametrize("name", ["transformers.gpt"])
def test_characters_are_scored_once_from_the_context_that_the_stride_leaves(recipe, tiny_run, hp):
    context, ids = hp["context"], np.asarray(recipe.encode(recipe.START + recipe.load_text(hp, "validation")))
    for stride in (context, context // 4):
        nats = recipe.held_out(tiny_run.model, hp, "validation", stride)
        assert len(nats) == len(ids) - 1
        for place in (0, 5, context - 1, context, 3 * context + 1, len(ids) - 2):  # The last is in a padded window.
            first = max(0, place - context + stride) // stride * stride
            logits = call(tiny_run.model, [ids[None, first : place + 1]])[:, -1]
            expected = keras.losses.sparse_categorical_crossentropy(ids[None, place + 1], logits, from_logits=True)
            assert nats[place] == pytest.approx(float(expected[0]), rel=1e-4)
    # A nat more for every character that was read; the first crop, in which nothing was lost, does not count.
    read = np.concatenate([np.zeros(context), np.arange(context) + 1.0])
    expected = {1: 1.0, 2: 2.5, 4: 5.5, 8: 10.0}  # The last is a mean from 8 to 12, three quarters of the context.
    assert hp["context"] == 16 and recipe.extra_nats(hp, np.zeros_like(read), read) == expected


@pytest.mark.parametrize("name", ["transformers.gpt"])
def test_a_pattern_is_random_and_read_twice_and_further_training_moves_no_weight(recipe, tiny_run, hp):
    texts = ["".join(recipe.VOCABULARY[index] for index in row) for row in recipe.copies(hp)]
    half = hp["context"] // 2
    assert all(text == recipe.START + 2 * text[1 : half + 1] and text[1:].islower() for text in texts)
    assert len({text[1:4] for text in texts}) > 95
    for kept, weight in zip(tiny_run.fits.last_weights["gpt"], tiny_run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)  # `evaluate` measures the speed of training.


@pytest.mark.parametrize("name", ["recurrent.language_model"])
def test_a_crop_is_scored_as_if_there_were_no_other(recipe, tiny_run, hp):
    carried, crops = recipe.measure(tiny_run.model, hp, "validation")
    ids = np.asarray(recipe.encode(recipe.START + recipe.load_text(hp, "validation")))
    for each in (carried, crops):
        np.testing.assert_array_equal(np.isnan(each.ravel()), np.arange(each.size) >= len(ids) - 1)
    alone = ids[recipe.CROP : 2 * recipe.CROP + 1]
    logits = call(tiny_run.model, [alone[None, :-1], np.zeros((1, hp["units"]), "float32")])
    expected = keras.losses.sparse_categorical_crossentropy(alone[None, 1:], logits, from_logits=True)
    np.testing.assert_allclose(crops[1], expected[0], rtol=1e-4)
    np.testing.assert_allclose(carried[0], crops[0], rtol=1e-4)
    assert not np.isclose(carried[1, 0], crops[1, 0], rtol=1e-4)
    # A nat more for every character that was read; the first crop, whose state is zero in any case, does not count.
    read = np.stack([np.zeros(recipe.CROP), np.arange(recipe.CROP) + 1.0])
    assert recipe.extra_nats(np.zeros_like(read), read) == {2**n: (3 * 2**n - 1) / 2 for n in range(8)}


@pytest.mark.parametrize("name", ["recurrent.tagging"])
def test_no_spelling_is_masked_as_a_whole_which_cudnn_would_refuse(recipe, hp):
    (rows, numbers, spellings), _, weights = next(iter(recipe.load_data(hp, "validation")))
    assert numbers[0] == 0 and np.all(spellings[:, 0] != 0)
    np.testing.assert_array_equal(weights, rows != 0)


@pytest.mark.parametrize("name", ["recurrent.vanishing_gradients"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_bias_of_unit_n_lets_it_keep_its_state_for_n_steps(recipe, hp, cell):
    model = recipe.build_model({**hp.values, "cell": cell, "gate_bias": "chrono", "length": 200})
    layer = model.get_layer("recurrent").cell
    for weights in (layer.kernel, layer.recurrent_kernel):
        weights.assign(np.zeros(weights.shape))
    ones = np.ones((1, hp["units"]), "float32")
    _, states = layer(np.zeros((1, 2), "float32"), [ones] * (2 if cell == "lstm" else 1))
    np.testing.assert_allclose(states[-1][0], 1 - 1 / np.linspace(2, 200, hp["units"]), rtol=1e-5)


@pytest.mark.parametrize("name", ["recurrent.vanishing_gradients"])
@pytest.mark.parametrize("offset, wrong", [(0.079, 0), (-0.081, 1), (np.nan, 1)])
def test_a_sum_off_by_more_than_the_paper_allows_is_wrong(recipe, hp, offset, wrong, monkeypatch):
    sequences = keras.Input((hp["length"], 2))
    answers = keras.ops.sum(keras.ops.prod(sequences, axis=-1), axis=1, keepdims=True) + offset
    model = keras.Model(sequences, answers)
    model.seed, model.found = 0, {}
    monkeypatch.setattr(recipe, "gradient_left", lambda *_: np.array([0.5, 0.002, 0.04, 0.2, 1.0]))
    results = recipe.evaluate({"model": model}, hp)
    assert (results["wrong"], results["solved"]) == (wrong, 1 - wrong)
    assert (results["gru-keras-left"], results["gru-keras-reach"]) == (0.5, 3)


@pytest.mark.parametrize("name", ["recurrent.vanishing_gradients"])
def test_a_gradient_descent_that_overflows_ends_there_and_is_not_chosen(recipe, hp, monkeypatch):
    changes, times, _ = recipe.COMPARED["unclipped"]
    monkeypatch.setattr(recipe, "COMPARED", {"unclipped": (changes, times, (1e6, 0.01))})
    found = recipe.train(hp, 0)["unclipped"].found
    per_epoch = -(-hp["examples"] // hp["batch_size"])
    assert found["rate"] == 0.01 and 0 < found["updates"] < times * hp["epochs"] * per_epoch


LANGUAGE_MODEL = pytest.mark.parametrize("name", ["recurrent.pretrained_language_model"])


@LANGUAGE_MODEL
def test_a_language_model_predicts_the_next_word_from_those_before_and_padding_weighs_nothing(recipe, tiny_run, hp):
    network = recipe.build_model(hp)
    with pytest.MonkeyPatch.context() as patch:
        fits = []
        patch.setattr(keras.Model, "fit", lambda model, batches, **options: fits.append((model, batches)))
        recipe.pretrain(hp, network, [])
    ((model, batches),) = fits
    padded = False
    for words, targets, weights in batches.as_numpy_iterator():
        np.testing.assert_array_equal(weights, words[:, 1:] != 0)
        assert not targets.any()  # The right word is the first of the candidates.
        padded |= not weights.all()
    assert padded
    predict = keras.Model(model.input, model.get_layer("prediction").output)
    prediction = np.asarray(predict(words))
    vectors = keras.ops.take(network.get_layer("embedding").embeddings, words[:, 1:], axis=0)
    logits = np.asarray(model(words))
    np.testing.assert_allclose(logits[..., 0], np.sum(prediction * vectors, axis=-1), rtol=1e-4, atol=1e-4)
    cut = words.shape[1] // 2
    changed = words.copy()
    changed[:, cut:] = words[:, cut:][:, ::-1] + 1
    found = np.asarray(predict(changed))
    np.testing.assert_allclose(found[:, :cut], prediction[:, :cut], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[:, cut:], prediction[:, cut:])


@LANGUAGE_MODEL
def test_gradual_unfreezing_leaves_each_variable_alone_until_its_turn(recipe):
    variables = [keras.Variable(np.ones(3), dtype="float32") for _ in range(3)]
    optimizer = recipe.GradualAdam(0.1)
    optimizer.build(variables)
    optimizer.waits = [0, 1, 2.5]
    moved = []
    for _ in range(4):
        before = [keras.ops.convert_to_numpy(each).copy() for each in variables]
        optimizer.apply([keras.ops.ones(3)] * 3)
        moved.append([not np.array_equal(each, old) for each, old in zip(variables, before)])
    assert moved == [[True, False, False], [True, True, False], [True, True, False], [True, True, True]]


@LANGUAGE_MODEL
def test_accuracies_are_those_of_all_kinds_and_the_model_is_the_combination(recipe, tiny_run, hp):
    *inputs, labels = recipe.prepare("validation", hp["examples"], hp["vocabulary_size"], hp["length"])
    every = tiny_run.models["100-0"].predict(inputs, verbose=0)
    np.testing.assert_allclose(every[:, -1:], tiny_run.model.predict(inputs, verbose=0), rtol=1e-5)
    counts, shares = recipe.accuracies(tiny_run.models, hp, "validation")
    assert counts.tolist() == [100]
    np.testing.assert_allclose(shares, [np.mean((every > 0.5) == labels[:, None], axis=0)])


SELF_ATTENTION = pytest.mark.parametrize("name", ["transformers.self_attention"])


def attention_layer(recipe, heads, units, **options):
    """The recipe's attention by hand as a model: hidden states (B, T, units) and real (B, T) to (B, T, units)."""
    hidden, real = keras.Input((None, units)), keras.Input((None,), dtype="bool")
    options = {"scale": (units // heads) ** -0.5, **options}
    return keras.Model([hidden, real], recipe.attend(hidden, real, heads, **options))


@SELF_ATTENTION
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_by_hand_is_that_of_keras_with_the_same_weights(recipe, heads):
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(3, 7, 16)).astype("float32")
    real = np.arange(7) < np.array([[7], [4], [1]])
    by_hand = attention_layer(recipe, heads, 16)
    expected = keras.layers.MultiHeadAttention(heads, 16 // heads, use_bias=False)
    expected.build(hidden.shape, hidden.shape)
    expected.set_weights([3 * generator.normal(size=each.shape) for each in expected.get_weights()])
    by_hand.set_weights(expected.get_weights())
    output, weights = expected(hidden, hidden, attention_mask=real[:, None, :], return_attention_scores=True)
    np.testing.assert_allclose(by_hand([hidden, real]), output, rtol=1e-3, atol=1e-3)
    found = keras.Model(by_hand.inputs, by_hand.get_layer("weights_1").output)([hidden, real])
    np.testing.assert_allclose(found, weights, rtol=1e-3, atol=1e-5)
    assert np.ptp(found, axis=-1).max() > 0.5 and not np.asarray(found)[1, ..., 4:].any()


@SELF_ATTENTION
def test_rotary_scores_depend_on_distances_and_all_other_positions_are_told_apart(recipe):
    generator = np.random.default_rng(0)
    query, key = generator.normal(size=(2, 8)).astype("float32")
    turns = recipe.angles(np.arange(30)[None], 4)[:, None]
    queries, keys = (np.asarray(recipe.rotate(np.tile(each, (1, 1, 30, 1)), turns))[0, 0] for each in (query, key))
    scores = queries @ keys.T
    for distance in (-9, 0, 1, 9):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-3, atol=1e-4)
    assert np.ptp(scores) > 1 and scores[3, 3] == pytest.approx(query @ key, rel=1e-4)


@SELF_ATTENTION
@pytest.mark.parametrize(
    "positions, matters", [("none", False), ("sinusoidal", True), ("learned", True), ("rotary", True)]
)
def test_the_order_of_words_matters_only_with_positions(recipe, positions, matters):
    keras.utils.set_random_seed(0)
    values = {**recipe.TINY, "positions": positions, "kernel_size": 0}
    model = recipe.build_model(settings.build(recipe.configure, values))
    for weight in model.trainable_weights:
        if weight.name == "kernel":
            weight.assign(2 * weight)
    tokens = np.array([[5, 6, 7, 8, 9, 10, 0]])
    changed = np.array([[9, 6, 10, 8, 5, 7, 0]])
    assert np.allclose(call(model, [tokens]), call(model, [changed]), rtol=1e-4) != matters


@SELF_ATTENTION
def test_weights_are_equal_where_scores_are_zero_and_their_entropy_is_the_logarithm_of_the_words(recipe, tiny_run, hp):
    values = {**hp.values, "scale": "zero", "length": 200}  # Most reviews are shorter, some are not.
    lengths = [np.count_nonzero(row) for tokens, _ in recipe.load_data(values, "validation") for row in tokens.numpy()]
    expected = np.average(np.log(lengths), weights=lengths)
    assert recipe.mean_entropy(recipe.build_model(values), values) == pytest.approx(expected, rel=1e-4)
    assert min(lengths) < max(lengths) / 2 and 0 < tiny_run.results["metrics"]["entropy"] < np.log(hp["length"])
