"""`python -m recipes`, and what a recipe's command line does with mistakes."""

import errno
import importlib.util
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import types

import keras
import keras_tuner
import numpy as np
import pytest

from common import callbacks, files
from common.cookbook import catalogue, command_line, copying, errors, preparation, results, runs, settings
from common.datasets import sums
from conftest import NAMES, OtherProcess
from recipes import __main__ as commands

NAME = "seq2seq.addition"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=catalogue.ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def quick():
    """Fails a test whose commands take a CPU second or more, as importing TensorFlow does."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    end = resource.getrusage(resource.RUSAGE_CHILDREN)  # Not the clock's seconds: other tests run beside this one.
    assert end.ru_utime - start.ru_utime + end.ru_stime - start.ru_stime < 1.0


def test_the_list_has_every_recipe_at_once(quick):
    listed = command("recipes")
    for entry in catalogue.entries():
        assert entry.name in listed.stdout and entry.sentence in listed.stdout


@pytest.mark.parametrize("reader, shown", [("| head -1", NAMES[0]), ("| true", ""), (">&-", "")])
def test_a_list_that_is_not_read_to_its_end_ends_quietly(reader, shown):
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m recipes {reader}",
        shell=True,
        cwd=catalogue.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == shown and done.stderr.count("\n") <= 1
    assert done.returncode == 0


def test_help_has_every_hyperparameter_with_range_and_remark_at_once(quick):
    told = command(f"recipes.{NAME}", "--help").stdout
    assert "0.0001..0.03, logarithmic" in told and "32..512 in steps of 32" in told
    assert "      The peak of the one-cycle schedule." in told


def test_a_mistake_is_told_at_once(quick):
    done = command(f"recipes.{NAME}", "--seeds", "0")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "not a whole number" in done.stderr


def test_a_run_starts_without_tensorflow_s_messages_and_ends_with_what_to_do_next(tmp_path):
    preparation.prepare([sums.Builder.name])  # Whose progress the first run would show.
    done = command(f"recipes.{NAME}", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Training addition")
    assert "its figures mean nothing" in done.stdout
    again = f"python -m recipes.{NAME} --tiny --out {tmp_path}"
    assert f'  {again} --try "535+61"\n  {again} --variants\n' in done.stdout


def test_an_unknown_recipe_is_told_in_one_line(capsys):
    for arguments in (["verify", "vision.nonesuch"], ["copy", "vision.nonesuch", "a.py"]):
        assert commands.main(arguments) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and NAME in told


def test_mistakes_end_with_one_line_and_no_traceback(tmp_path):
    told = command(f"recipes.{NAME}", "--set", "unit=3", "--out", str(tmp_path))
    assert told.returncode != 0
    assert "Traceback" not in told.stderr and told.stderr.splitlines()[-1].startswith(
        f"{NAME}: --set: no hyperparameter 'unit'"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_reported_in_one_line(number, monkeypatch, capsys):
    def full(*given):
        raise OSError(number, os.strerror(number), "model.keras")

    monkeypatch.setattr(command_line, "dispatch", full)
    with pytest.raises(SystemExit, match="^[^\n]*the disk is full.*--resume[^\n]*$"):
        command_line.main(f"recipes.{NAME}", [])
    monkeypatch.setattr(commands, "list_recipes", full)
    assert commands.main([]) == 2
    assert capsys.readouterr().err == (
        "python -m recipes: the disk is full (model.keras): free some space, then rerun this\n"
    )


def test_a_process_killed_at_once_resumes_in_another_bit_for_bit(tmp_path, tiny_runs, monkeypatch):
    """kill -9 as soon as the first epoch is on disk, in the first run ever: the data directory is empty before."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny_runs(NAME)
    expected = short(whole, values={**sys.modules[f"recipes.{NAME}"].TINY, "epochs": 12})
    arguments = [f"recipes.{NAME}", "--tiny", "--set", "epochs=12", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments, str(killed)],
        cwd=catalogue.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(killed.glob("backup/seed-0/*.npz")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "data" / "sums").exists()
    resumed = command(*arguments, str(killed), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    models = [keras.models.load_model(folder / "model.keras") for folder in (whole, killed)]
    for one, other in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
    found = results.read_json(killed / "results.json")
    assert found["metrics"] == expected["metrics"] and found["score"] == expected["score"]


def short(tmp_path, **changes):
    """Runs the recipe in this process with few examples."""
    recipe = sys.modules[f"recipes.{NAME}"]
    arguments = {"values": recipe.TINY, "seeds": [0], "out": tmp_path, **changes}
    return runs.execute(catalogue.entry(NAME), recipe, **arguments)


@pytest.fixture
def interrupted(tmp_path, tiny_runs, monkeypatch):
    """A folder with a run that was interrupted in its second epoch."""
    tiny_runs(NAME)
    recipe = sys.modules[f"recipes.{NAME}"]
    original = recipe.train

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "train", lambda hp, seed, callbacks: original(hp, seed, [*callbacks, Interrupt()]))
    with pytest.raises(KeyboardInterrupt, match="^epoch 1 is saved in .*last-epoch.keras$"):
        short(tmp_path)
    monkeypatch.setattr(recipe, "train", original)
    return tmp_path


def test_an_interrupted_run_keeps_its_last_epoch(interrupted):
    assert keras.models.load_model(interrupted / "last-epoch.keras").count_params()
    assert not (interrupted / "model.keras").exists(), "this would replace the model of a finished run"
    assert len((interrupted / "history.csv").read_text().splitlines()) == 2


def test_resume_refuses_other_hyperparameters_and_seeds(interrupted):
    recipe = sys.modules[f"recipes.{NAME}"]
    with pytest.raises(errors.RecipeError, match="units=32, not 64"):
        short(interrupted, values={**recipe.TINY, "units": 64}, resume=True)
    with pytest.raises(errors.RecipeError, match=r"seeds \[0\], not \[1\]"):
        short(interrupted, seeds=[1], resume=True)


def test_an_unfinished_run_is_moved_aside_and_not_lost(interrupted, capsys):
    short(interrupted)
    assert (interrupted / "backup-previous" / "identity.json").exists()
    assert "to continue it, rename that to backup and use --resume" in capsys.readouterr().out


def test_resume_without_a_run_is_refused(tmp_path, tiny_runs):
    tiny_runs(NAME)
    with pytest.raises(errors.RecipeError, match="nothing to resume"):
        short(tmp_path, resume=True)


def test_a_folder_of_another_recipe_or_setting_is_refused(tmp_path, tiny_runs):
    measured = tiny_runs(NAME).results
    files.write_json(tmp_path / "results.json", {**measured, "recipe": "vision.lenet"})
    with pytest.raises(errors.RecipeError, match="contains results of vision.lenet"):
        short(tmp_path)
    files.write_json(tmp_path / "results.json", {**measured, "hyperparameters": {}})
    with pytest.raises(errors.RecipeError, match="other hyperparameters"):
        short(tmp_path)


def test_a_record_of_more_seeds_is_not_overwritten(tmp_path, tiny_runs):
    measured = tiny_runs(NAME).results
    record = {**measured, "seeds": [0, 1, 2]}
    files.write_json(tmp_path / "results.json", record)
    files.write_json(tmp_path / "fewer-seeds.json", measured)
    results.record(measured, tmp_path)
    assert results.read_json(tmp_path / "results.json") == record
    assert results.read_json(tmp_path / "fewer-seeds.json") == measured
    more = {**measured, "seeds": [5, 6, 7]}
    files.write_json(tmp_path / "fewer-seeds.json", more)
    results.record(more, tmp_path)
    assert results.read_json(tmp_path / "results.json") == more


def test_variants_change_the_run_that_they_are_compared_with(tmp_path, tiny_runs, monkeypatch):
    measured = tiny_runs(NAME).results
    recipe = sys.modules[f"recipes.{NAME}"]
    files.write_json(tmp_path / "results.json", measured)
    trained = []

    def execute(entry, recipe, values, seeds, out, *others, record, **options):
        trained.append((values, seeds))
        record(measured, out)
        return measured

    monkeypatch.setattr(runs, "execute", execute)
    arguments = ["--tiny", "--variants", "--out", str(tmp_path)]
    command_line.main(f"recipes.{NAME}", arguments)
    assert trained == [({**recipe.TINY, **changed}, [0]) for changed in recipe.VARIANTS.values()]
    compared = results.read_json(tmp_path / "results.json")["variants"]
    assert {name: each["values"] for name, each in compared.items()} == recipe.VARIANTS
    command_line.main(f"recipes.{NAME}", [*arguments, "--resume"])
    assert len(trained) == len(recipe.VARIANTS), "a variant that was compared is trained again"
    for other in (["--seed", "3"], ["--set", "units=64"]):
        with pytest.raises(SystemExit, match="finished run of the same seed"):
            command_line.main(f"recipes.{NAME}", [*arguments, *other])


@pytest.mark.parametrize("near, expected", [(0.915, [[0], [1, 2]]), (0.5, [[0]])])
def test_a_variant_within_the_spread_is_trained_from_the_other_seeds_too(
    near, expected, tmp_path, tiny_runs, monkeypatch
):
    measured = tiny_runs(NAME).results
    name = measured["figure"]["name"]
    by_seed = {name: [0.90, 0.91, 0.92]}
    figure = {**measured["figure"], **results.summary(by_seed[name])}
    recorded = {**measured, "figure": figure, "metrics_by_seed": by_seed, "seeds": [0, 1, 2]}
    files.write_json(tmp_path / "results.json", recorded)
    trained = []

    def execute(entry, recipe, values, seeds, out, *others, record, **options):
        trained.append(seeds)
        values = [near + 0.001 * seed for seed in seeds]
        metrics = {"metrics": {**measured["metrics"], name: values[0]}, "metrics_by_seed": {name: values}}
        record({**measured, **metrics, "seeds": seeds}, out)
        return {**measured, **metrics, "seeds": seeds}

    monkeypatch.setattr(runs, "execute", execute)
    command_line.main(f"recipes.{NAME}", ["--tiny", "--variants", "--out", str(tmp_path)])
    assert trained == expected
    (variant,) = results.read_json(tmp_path / "results.json")["variants"].values()
    assert variant["seeds"] == [seed for seeds in expected for seed in seeds]
    assert variant["metrics_by_seed"][name] == pytest.approx([near + 0.001 * seed for seed in variant["seeds"]])
    assert variant["metrics"][name] == pytest.approx(np.mean(variant["metrics_by_seed"][name]))


def test_a_folder_s_name_is_never_too_long():
    values = {f"hyperparameter_{number}": 0.1234567890123 for number in range(20)}
    assert len(command_line.folder(values)) < 200
    assert command_line.folder(values) != command_line.folder({**values, "hyperparameter_19": 1})
    assert command_line.folder({"units": 64, "cell": "gru"}) == "units=64,cell=gru"


def test_nan_keeps_the_last_good_weights(tmp_path, tiny_runs, monkeypatch):
    tiny_runs(NAME)
    recipe = sys.modules[f"recipes.{NAME}"]
    original = recipe.train

    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise callbacks.Diverged("the loss is nan at step 1 of epoch 2")

    monkeypatch.setattr(recipe, "train", lambda hp, seed, callbacks: original(hp, seed, [*callbacks, Poison()]))
    with pytest.raises(errors.RecipeError, match="nan at step 1 of epoch 2; epoch 1 is saved in"):
        short(tmp_path)
    assert (tmp_path / "last-epoch.keras").exists()


def test_weights_that_cannot_be_downloaded_are_reported_in_one_line(tmp_path, tiny_runs, monkeypatch):
    def train(hp, seed, callbacks):
        keras.utils.get_file("weights.h5", "http://127.0.0.1:9/weights.h5", cache_dir=tmp_path)

    tiny_runs(NAME)
    monkeypatch.setattr(sys.modules[f"recipes.{NAME}"], "train", train)
    with pytest.raises(preparation.Unavailable, match=r"^URL fetch failure on http://127.0.0.1:9/weights.h5[^\n]*$"):
        short(tmp_path)


@pytest.mark.parametrize("found, within", [(0.5, True), (0.69, True), (0.9, False)])
def test_verify_compares_with_three_standard_deviations(found, within, monkeypatch, tiny_runs, tmp_path):
    measured = tiny_runs(NAME).results
    defaults = dict(settings.build(sys.modules[f"recipes.{NAME}"].configure, {}).values)
    figure = {**measured["figure"], "mean": 0.5, "sd": 0.1, "values": [0.4, 0.6]}
    recorded = {**measured, "figure": figure, "hyperparameters": defaults}
    monkeypatch.setattr(catalogue.Entry, "results", recorded)
    measured = {**measured, "figure": {**measured["figure"], "mean": found}}
    monkeypatch.setattr(runs, "execute", lambda *arguments, **options: measured)
    assert commands.main(["verify", NAME]) == (0 if within else 1)


def test_a_copy_is_never_written_over(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text("kept")
    assert commands.main(["copy", NAME, str(tmp_path / "mine.py")]) == 2
    assert "already exists; not overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == "kept"
    monkeypatch.syspath_prepend(tmp_path)  # As from the folder of an earlier copy.
    assert commands.main(["copy", NAME, str(tmp_path / "mine.py")]) == 2
    assert "already exists; not overwritten" in capsys.readouterr().err
    assert commands.main(["copy", NAME, str(tmp_path / "other.py")]) == 0
    builder = tmp_path / "sums" / "sums_dataset_builder.py"
    builder.write_text("mine")
    assert commands.main(["copy", NAME, str(tmp_path / "third.py")]) == 0
    assert (tmp_path / "third.py").exists() and builder.read_text() == "mine"
    assert commands.main(["copy", NAME, str(tmp_path / "copied.txt")]) == 2
    assert "is not a .py file name" in capsys.readouterr().err
    assert commands.main(["copy", NAME, str(tmp_path / "random.py")]) == 2
    assert "would hide the module 'random'" in capsys.readouterr().err


def test_frozen_weights_lie_beside_a_copy_and_are_never_written_over(tmp_path):
    original = (catalogue.ROOT / "common" / "lenet.keras").read_bytes()
    assert commands.main(["copy", "generative.vae", str(tmp_path / "first.py")]) == 0
    weights = tmp_path / "lenet.keras"
    assert weights.read_bytes() == original
    weights.write_bytes(b"mine")
    assert commands.main(["copy", "generative.vae", str(tmp_path / "second.py")]) == 0
    assert (tmp_path / "second.py").exists() and weights.read_bytes() == b"mine"


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A recipe's copy, imported into this process, which must run nothing."""
    try:
        preparation.prepare(["mnist"])
    except preparation.Unavailable as error:
        pytest.skip(f"vision.lenet: {error}")
    path = tmp_path_factory.mktemp("copied") / "digits.py"
    copying.copy(catalogue.entry("vision.lenet"), path)
    specification = importlib.util.spec_from_file_location("digits", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run_main(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["digits.py", *arguments])
    module.main()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--set", "epochs=61"], "epochs=61 is not allowed: epochs takes 1..60"),
        (["--set", "epoch=2"], "no hyperparameter 'epoch'; known: examples, epochs"),
        (["--set", "batch_size=33"], "batch_size takes 32|64|128|256"),
        (["--out", "/dev/null/x"], "/dev/null/x"),
        (["--out", "/proc/self"], "/proc/self"),
        (["--seed", "-1"], "Seed must be between 0 and"),
    ],
)
def test_a_copy_tells_mistakes_in_one_line(copied, monkeypatch, capsys, arguments, told):
    with pytest.raises(SystemExit, match="^2$"):
        run_main(copied, monkeypatch, *arguments)
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_the_help_of_a_copy_lists_the_ranges(copied, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        run_main(copied, monkeypatch, "--help")
    assert "batch_size=64  (32|64|128|256)" in capsys.readouterr().out


def test_a_copy_keeps_what_it_trained_when_its_evaluation_fails(copied, monkeypatch, tmp_path):
    def broken(model, hp):
        raise RuntimeError("no such file")

    monkeypatch.setattr(copied, "evaluate", broken)
    with pytest.raises(RuntimeError, match="no such file"):
        run_main(copied, monkeypatch, "--tiny", "--set", "activation=tanh", "--seed", "3", "--out", str(tmp_path))
    assert keras.models.load_model(tmp_path / "model.keras").count_params()
    kept = json.loads((tmp_path / "run.json").read_text())
    assert kept["hyperparameters"]["activation"] == "tanh" and kept["seed"] == 3
    assert [each["model"] for each in kept["history"]] == ["lenet"] * copied.TINY["epochs"]


def test_the_search_that_a_copy_shows_runs_and_pins_what_the_recipe_pins(copied, monkeypatch, tmp_path):
    """Trial 0 has the pinned values of the recipe; they are the same in all trials, and the others are drawn."""
    text = copied.__doc__.split("KerasTuner:\n\n")[1]
    assert "for name in ['epochs', 'examples']" in text
    snippet = textwrap.dedent(text).replace(
        "hyperparameters=", f"max_trials=2, directory={str(tmp_path)!r}, hyperparameters="
    )
    seen = []

    def train(hp, seed, callbacks):
        seen.append(dict(hp.values))
        for name, scores in (("compared", [0.9]), ("own", [0.1, 0.3, 0.2])):  # The recipe's own network comes last.
            callbacks[0].set_model(types.SimpleNamespace(name=name))
            for score in scores:
                callbacks[0].on_epoch_end(0, {"val_accuracy": score})

    exec(snippet, {**vars(copied), "train": train})  # noqa: S102
    assert [json.loads(path.read_text())["score"] for path in tmp_path.glob("*/trial_*/trial.json")] == [0.2, 0.2]
    assert len(seen) == 2
    assert all(values["epochs"] == 12 and values["examples"] == 55_000 for values in seen)
    assert seen[0]["learning_rate"] != seen[1]["learning_rate"]


def test_keras_tuner_takes_the_build_model_of_a_copy(copied, tmp_path):
    """KerasTuner's convention: a function from hyperparameters to a compiled model."""
    hp = copied.configure(keras_tuner.HyperParameters())
    tuner = keras_tuner.RandomSearch(
        copied.build_model,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=1,
        hyperparameters=hp,
        directory=tmp_path,
    )
    small = settings.build(copied.configure, copied.TINY)
    tuner.search(copied.load_data(small, "train"), validation_data=copied.load_data(small, "validation"), verbose=0)
    assert tuner.get_best_hyperparameters()[0].values.keys() == hp.values.keys()


def test_the_first_run_of_a_copy_equals_every_later_one(tiny_runs, tmp_path, monkeypatch):
    """The data directory is empty, so that the data are prepared first."""
    expected = tiny_runs(NAME).results["metrics"]
    copying.copy(catalogue.entry(NAME), tmp_path / "copied.py")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    process = OtherProcess()
    try:
        process.run(tmp_path / "copied.py", "--tiny", folder=tmp_path)
    finally:
        process.close()
    assert (tmp_path / "data" / "sums").exists()
    assert results.read_json(tmp_path / "copied" / "figures.json") == expected


def test_the_readme_s_example_trains_a_copy_on_other_data(tiny_runs, process_of_copies, tmp_path):
    tiny_runs("recurrent.masking")
    readme = (catalogue.ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.split("### Train on your own data")[1].split("```python\n")[1].split("```")[0]
    copied = tmp_path / "classify.py"
    copying.copy(catalogue.entry("recurrent.masking"), copied)
    text = copied.read_text()
    before, old = text.split("def read(", 1)
    after = old.split("\n\n\n", 1)[1]
    copied.write_text(f"{before.replace('import functools', 'import csv, functools')}{example}\n\n{after}")
    words = np.random.default_rng(0).choice(["good", "bad", "film"], size=(200, 30))
    rows = [f"{' '.join(row)},{int(row[-1] == 'good')}" for row in words]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    assert "accuracy" in process_of_copies.run(copied, "--tiny", folder=tmp_path)
    assert (tmp_path / "classify" / "model.keras").exists()


def test_the_search_of_a_copy_goes_the_way_of_the_monitored_metric(tmp_path):
    for entry in catalogue.entries():
        target = tmp_path / f"copy_of_{entry.name.replace('.', '_')}.py"  # Chapters may have recipes of one name.
        copying.copy(entry, target)
        monitor = entry.promise["monitor"]
        direction = {"higher": "max", "lower": "min"}[monitor["better"]]
        text = target.read_text(encoding="utf-8")
        assert f'keras_tuner.Objective("{monitor["metric"]}", "{direction}")' in text
