"""Searches: of a stand-in recipe whose training is a formula, and of a real one."""

import ast
import collections
import csv
import errno
import importlib
import math
import os
import re
import socket
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

from common import files
from common.callbacks import Diverged, epochs
from common.cookbook import catalogue, command_line, errors, oracles, results, runs, search, settings


def configure(hp):
    hp.Int("examples", 1, 10, default=10)
    hp.Int("epochs", 1, 9, default=4)
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    hp.Choice("units", [8, 16, 32], default=16)
    return hp


class Agent(keras.Model):
    """What the stand-in's loop trains: nothing."""

    def __init__(self):
        super().__init__(name="formula")


class Formula:
    """A recipe without a network; keeps the values of its trainings, and can be killed in one of them.

    failures: {number of a training: what it raises}.
    """

    PROMISE = {"monitor": {"metric": "val_accuracy", "better": "higher"}, "data": []}
    configure = staticmethod(configure)

    def __init__(self, killed_in=None, failures=()):
        self.trained, self.killed_in, self.failures = [], killed_in, dict(failures)

    def train(self, hp, seed, callbacks):
        if len(self.trained) == self.killed_in:
            self.killed_in = None
            raise KeyboardInterrupt
        self.trained.append(dict(hp.values))
        if len(self.trained) - 1 in self.failures:
            raise self.failures[len(self.trained) - 1]
        for epoch, logs in epochs(Agent(), hp["epochs"], callbacks):
            logs["val_accuracy"] = hp["units"] * hp["learning_rate"] + epoch + seed
            logs["loss"] = 0.0


ENTRY = types.SimpleNamespace(name="stand.in", pinned=["epochs", "examples"])


def run(recipe, directory, trials=4, tuner="random", seed=0, values=None):
    options = types.SimpleNamespace(search=trials, tuner=tuner, seed=seed)
    search.search(ENTRY, recipe, values or {}, options, directory)


@pytest.mark.parametrize("tuner", list(oracles.KINDS))
def test_trial_0_has_the_defaults_and_the_others_stay_in_the_space(tmp_path, tuner):
    recipe = Formula()
    run(recipe, tmp_path, trials=5, tuner=tuner, values={"examples": 3})
    first, *others = recipe.trained
    assert len(recipe.trained) == 5
    assert first == {"examples": 3, "epochs": first["epochs"], "learning_rate": 1e-3, "units": 16}
    assert first["epochs"] == 4 or tuner == "hyperband"
    for values in others:
        assert settings.parse(configure, results.assignments(values).split()) == values
        assert values["examples"] == 3
        assert values["epochs"] == 4 or tuner == "hyperband"
    assert (tmp_path / "search.png").exists()


def test_the_best_values_are_told_as_a_set_line(tmp_path, capsys):
    recipe = Formula()
    run(recipe, tmp_path)
    best = max(recipe.trained, key=lambda values: values["units"] * values["learning_rate"])
    told = capsys.readouterr().out
    assert f"--set {results.assignments(best)}" in told and str(tmp_path) in told
    assert settings.parse(configure, told.splitlines()[-1].split("--set ")[1].split()) == best


@pytest.mark.parametrize("tuner", list(oracles.KINDS))
def test_a_killed_search_goes_on(tmp_path, tuner):
    whole, killed = Formula(), Formula(killed_in=2)
    run(whole, tmp_path / "whole", tuner=tuner)
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "killed", tuner=tuner)
    run(killed, tmp_path / "killed", tuner=tuner)
    assert killed.trained[:3] == whole.trained[:3] and len(killed.trained) == 4


def test_a_finished_search_says_so_and_more_trials_go_on(tmp_path, capsys):
    recipe = Formula()
    run(recipe, tmp_path, trials=3)
    run(recipe, tmp_path, trials=3)
    assert len(recipe.trained) == 3 and "nothing is run again" in capsys.readouterr().out
    run(recipe, tmp_path, trials=5)
    assert len(recipe.trained) == 5


def test_trials_that_fail_are_told_in_one_line_each_and_do_not_end_a_search(tmp_path, capsys):
    failures = [
        Diverged("the loss is nan"),
        ValueError("in the layer\nshapes differ"),
        MemoryError(),
        KeyError("units"),
    ]
    recipe = Formula(failures=enumerate(failures))
    run(recipe, tmp_path, trials=5)
    told = capsys.readouterr()
    assert len(recipe.trained) == 5 and "Best: trial 4" in told.out
    lines = ["0 failed: Diverged: the loss is nan", "1 failed: ValueError: shapes differ", "2 failed: MemoryError"]
    assert all(f"Trial {line}\n" in told.out for line in lines)
    assert "Traceback" not in told.out + told.err
    table = told.out.split("trial  ")[-1].splitlines()[1:6]
    assert [line.split()[1] == "failed" for line in table] == [True] * 4 + [False]
    with pytest.raises(
        errors.RecipeError, match="^no trial succeeded; the last one failed with: Diverged: the loss is nan$"
    ):
        run(Formula(failures=dict.fromkeys(range(4), failures[0])), tmp_path / "all", trials=4)
    assert "Traceback" not in capsys.readouterr().err


def test_a_score_that_is_no_number_is_a_failure(tmp_path, capsys):
    recipe = Formula()
    recipe.validate = lambda model, hp: {"val_accuracy": math.nan if hp["units"] == 16 else 0.5}
    run(recipe, tmp_path, trials=6)
    told = capsys.readouterr().out
    assert "Trial 0 failed: Diverged: val_accuracy is nan\n" in told and "val_accuracy 0.5; run it with" in told


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), Exception("URL fetch failure on https://x.org: 404")]
)
def test_what_no_trial_is_to_blame_for_ends_the_search_and_the_trial_is_run_again(error, tmp_path):
    recipe = Formula(failures={1: error})
    with pytest.raises(errors.RecipeError, match=rf"^trial 1 was interrupted: \w+: {re.escape(str(error))}; [^\n]*$"):
        run(recipe, tmp_path, trials=3)
    run(recipe, tmp_path, trials=3)
    assert len(recipe.trained) == 4 and recipe.trained[1] == recipe.trained[2]


@pytest.mark.parametrize("tuner", ["random", "hyperband"])
def test_a_search_killed_while_it_writes_goes_on(tmp_path, tuner, monkeypatch):
    """In every one of its writes, when the new file is written and has not yet the old one's name."""
    whole, writes = Formula(), []
    replace = os.replace

    def killed(*arguments):
        writes.append(arguments)
        if len(writes) == at:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(files.os, "replace", killed)
    at = None
    run(whole, tmp_path / "whole", trials=2, tuner=tuner)
    assert len(writes) == 6  # The space, the oracle four times, and the picture.
    for at in range(1, len(writes) + 1):
        recipe, directory = Formula(), tmp_path / str(at)
        writes.clear()
        with pytest.raises(KeyboardInterrupt):
            run(recipe, directory, trials=2, tuner=tuner)
        run(recipe, directory, trials=2, tuner=tuner)
        assert [values for number, values in enumerate(recipe.trained) if values not in recipe.trained[:number]] == (
            whole.trained
        )
        # Killed in the write of a trial's result, the third or the fifth, that trial is trained again.
        assert len(recipe.trained) == (3 if at in (3, 5) else 2)


def test_a_full_disk_does_not_end_a_search(tmp_path, monkeypatch, capsys):
    recipe, synchronize, calls = Formula(), os.fsync, []

    def full(file):
        calls.append(file)
        if 3 <= len(calls) <= 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronize(file)

    monkeypatch.setattr(files.os, "fsync", full)
    run(recipe, tmp_path, trials=4)
    told = capsys.readouterr().out
    assert told.count("oracle.json: No space left on device.\n") == 4 and "Best: trial" in told
    run(recipe, tmp_path, trials=4)
    assert len(recipe.trained) == 4 and "nothing is run again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damaged", ["", "{", "{}", "null", "[" * 100_000], ids=["empty", "cut", "keys", "none", "deep"]
)
def test_a_damaged_file_is_named_and_without_it_the_same_trials_are_run_again(damaged, tmp_path):
    recipe = Formula()
    run(recipe, tmp_path, trials=2)
    expected = list(recipe.trained)
    for path in set(tmp_path.rglob("*.json")) - {tmp_path / "space.json"}:
        path.write_text(damaged)
        with pytest.raises(errors.RecipeError, match=f"^{path} can't be read: delete it[^\n]*$"):
            run(recipe, tmp_path, trials=2)
        path.unlink()
        recipe.trained.clear()
        run(recipe, tmp_path, trials=2)
        assert recipe.trained == expected


def test_a_search_that_goes_on_tells_what_is_done_and_what_is_run_again(tmp_path, capsys):
    recipe = Formula(killed_in=3)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path)
    capsys.readouterr()
    run(recipe, tmp_path)
    told = capsys.readouterr().out
    assert "3 of 4 trials are done; interrupted and run again: 1.\n" in told and "nothing is run again" not in told
    assert len(recipe.trained) == 4


def test_the_score_is_that_of_the_last_epoch_of_the_last_fit_that_has_one():
    histories = {"compared": {"val_loss": [0.1]}, "own": {"val_loss": [3.0, 1.0, 2.0]}, "other": {"loss": [0.0]}}
    assert results.score(histories, "val_loss") == 2.0


def test_the_score_of_a_run_is_of_the_model_that_is_kept(recipe, tiny_run):
    metric = recipe.PROMISE["monitor"]["metric"]
    if not hasattr(recipe, "validate"):
        with open(tiny_run.out / "history.csv", encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row[metric]]
        # What is kept may be made of the model that was fitted, and have another name.
        own = [row for row in rows if row["model"] == tiny_run.model.name] or rows
        assert tiny_run.results["score"]["values"] == [float(own[-1][metric])]


def test_what_a_fit_keeps_is_what_it_validated_last(tiny_run):
    for name, validated in tiny_run.fits.validated_weights.items():
        for weight, kept in zip(validated, tiny_run.fits.last_weights[name], strict=True):
            np.testing.assert_allclose(weight, kept, rtol=1e-4, atol=1e-6, err_msg=name)


def hyperparameters_in(nodes):
    """The names in `hp["name"]`."""
    parts = (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Subscript))
    return {part.slice.value for part in parts if isinstance(part.slice, ast.Constant)}


# Pins that `counted_in` does not find, but for those in ALIKE.
PINS = {
    "basics.cross_validation": {"folds", "repeats"},
    "generative.autoencoder": {"data", "code", "novelty", "denoising_epochs", "erased"},
    "generative.diffusion": {"schedule", "untold", "averaging", "steps", "guidance", "few", "longest"},
    "generative.normalizing_flow": {"temperature"},
    "generative.vae": {"plane_epochs", "draws"},
    "recurrent.anomaly_detection": {"window", "code"},
    "recurrent.language_model": {"stateful", "streams"},
    "recurrent.masking": {"padding"},
    "recurrent.pretrained_language_model": {"subsets"},
    "recurrent.sentiment": {"bag", "bucketing"},
    "recurrent.tree": {"height", "network"},
    "recurrent.vanishing_gradients": {"xla"},
    "seq2seq.chatbot": {"turns"},
    "seq2seq.question_answering": {"reader"},
    "transformers.bert": {"glue"},
    "transformers.gpt": {"context"},
    "vision.resnet": {"shortcuts", "patches", "precision"},
    "vision.shortcuts": {"networks"},
    "vision.transfer_learning": {"picture_size"},
}
ALIKE = {"epochs", "examples", "labels", "base", "renamings", "rarity", "length", "compared"}  # In every recipe.


def called(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def counted_in(node):
    """The hyperparameters that a function counts updates, examples and epochs with, itself or by a local name.

    A name stands for what it was assigned, if no function returned that, or as a parameter for what was passed.
    """
    parts = list(ast.walk(node))
    calls = [part for part in parts if isinstance(part, ast.Call)]
    counts = [argument for call in calls if called(call) in ("repeat", "take", "epochs") for argument in call.args]
    counts += [each.value for call in calls for each in call.keywords if each.arg in ("epochs", "steps_per_epoch")]
    values = [(part.targets[0], part.value) for part in parts if isinstance(part, ast.Assign)]
    for local in (part for part in parts[1:] if isinstance(part, ast.FunctionDef)):
        values += [pair for call in calls if called(call) == local.name for pair in zip(local.args.args, call.args)]
    names = collections.defaultdict(list)
    for target, value in values:
        if not isinstance(value, ast.Call) or called(value) in ("max", "min"):
            names[getattr(target, "arg", getattr(target, "id", ""))].append(value)
    for count in counts:  # Which become more.
        for part in ast.walk(count):
            counts += names.pop(getattr(part, "id", None), [])
    return hyperparameters_in(counts)


def test_what_changes_the_task_the_cost_or_the_scale_of_the_score_is_pinned_and_nothing_else(entry):
    outside = [node for node in entry.tree.body if getattr(node, "name", "") != "build_model"]
    found = ALIKE.union(PINS.get(entry.name, ()), *map(counted_in, outside))
    found.discard("batch_size")  # With another one, as many examples are only divided otherwise.
    metric = entry.promise["monitor"]["metric"]
    if "accuracy" not in metric or "token" in metric:
        found.add("vocabulary_size")  # The fewer words, the easier it is to guess the next.
    names = {each.name for each in settings.declarations(entry.tree)}
    assert found & names == set(entry.pinned) and PINS.get(entry.name, set()) <= names


def test_trials_are_told_in_order_when_their_numbers_get_longer(tmp_path, capsys):
    run(Formula(), tmp_path, trials=3)
    run(Formula(), tmp_path, trials=11)
    table = capsys.readouterr().out.split("trial  ")[-1].splitlines()[1:12]
    assert [int(line.split()[0]) for line in table] == list(range(11))


def test_another_space_or_seed_is_refused(tmp_path):
    run(Formula(), tmp_path, trials=1)
    for changed in ({"seed": 1}, {"values": {"units": 8}}):
        with pytest.raises(errors.RecipeError, match="^[^\n]*another space or seed[^\n]*$"):
            run(Formula(), tmp_path, trials=1, **changed)


@pytest.mark.parametrize("name", ["seq2seq.addition"])
def test_a_trial_run_alone_gives_its_score_bit_for_bit(name, tmp_path, tiny_run):
    entry, recipe = catalogue.entry(name), importlib.import_module(f"recipes.{name}")
    options = types.SimpleNamespace(search=2, tuner="random", seed=0)
    search.search(entry, recipe, recipe.TINY, options, tmp_path / "search")
    space = search.search_space(entry, recipe, recipe.TINY)
    oracle = oracles.make("random", space, recipe.PROMISE["monitor"], 2, 0)
    search.Search(recipe, 0, oracle, directory=tmp_path / "search", project_name="keras_tuner")
    defaults, drawn = (oracle.trials[str(trial)] for trial in range(2))
    assert [defaults.score] == tiny_run.results["score"]["values"]
    values = search.trial_values(recipe, drawn)
    alone = runs.execute(entry, recipe, values, [0], tmp_path / "alone")
    assert alone["score"]["values"] == [drawn.score]


def test_a_chief_and_two_workers_one_of_them_killed(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-u",
        "-m",
        "recipes.seq2seq.addition",
        "--tiny",
        "--search",
        "3",
        "--out",
        str(tmp_path),
    ]

    def start(worker):
        addresses = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
        return subprocess.Popen(
            command,
            env={**os.environ, **addresses, "KERASTUNER_TUNER_ID": worker},
            cwd=catalogue.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    chief, killed, steady = started = [start(worker) for worker in ("chief", "worker-0", "worker-1")]
    try:
        output = []
        for line in killed.stdout:
            output.append(line)
            if line.startswith("Trial"):
                break
        assert line.startswith("Trial"), "".join(output)
        killed.kill()
        killed.wait()
        again = start("worker-0")
        started.append(again)
        told = chief.communicate(timeout=300)[0]
        assert chief.returncode == 0, told
        assert line.split(":")[0].split()[1] in "012"
        assert "Best: trial" in told and told.count("learning_rate=") == 4
        assert again.wait(timeout=60) == 0 and steady.wait(timeout=60) == 0
    finally:
        for process in started:
            process.kill()


def test_the_command_line_offers_every_tuner():
    assert tuple(oracles.KINDS) == command_line.TUNERS
