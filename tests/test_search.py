"""Searches: of a stand-in recipe whose training is a formula, and of a real one."""

import importlib
import os
import socket
import subprocess
import sys
import types

import keras
import pytest

from common.callbacks import Diverged, epochs
from common.cookbook import catalogue, command_line, errors, results, runs, search, settings


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
    """A recipe without a network; counts its trainings, and can be killed in one of them."""

    PROMISE = {"monitor": {"metric": "val_accuracy", "better": "higher"}, "data": []}
    configure = staticmethod(configure)

    def __init__(self, killed_in=None, diverging=0):
        self.trained, self.killed_in, self.diverging = [], killed_in, diverging

    def train(self, hp, seed, callbacks):
        if len(self.trained) == self.killed_in:
            self.killed_in = None
            raise KeyboardInterrupt
        self.trained.append(dict(hp.values))
        if len(self.trained) <= self.diverging:
            raise Diverged("the loss is nan")
        for epoch, logs in epochs(Agent(), hp["epochs"], callbacks):
            logs["val_accuracy"] = hp["units"] * hp["learning_rate"] + epoch + seed
            logs["loss"] = 0.0


ENTRY = types.SimpleNamespace(name="stand.in", pinned=["epochs", "examples"])


def run(recipe, directory, trials=4, tuner="random", seed=0, values=None):
    options = types.SimpleNamespace(search=trials, tuner=tuner, seed=seed)
    search.search(ENTRY, recipe, values or {}, options, directory)


@pytest.mark.parametrize("tuner", list(search.ORACLES))
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
    assert (tmp_path / "search.png").exists()


def test_the_best_values_are_told_as_a_set_line(tmp_path, capsys):
    recipe = Formula()
    run(recipe, tmp_path)
    best = max(recipe.trained, key=lambda values: values["units"] * values["learning_rate"])
    told = capsys.readouterr().out
    assert f"--set {results.assignments(best)}" in told and str(tmp_path) in told
    assert settings.parse(configure, told.splitlines()[-1].split("--set ")[1].split()) == best


@pytest.mark.parametrize("tuner", list(search.ORACLES))
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


def test_trials_that_diverge_do_not_end_a_search(tmp_path, capsys):
    recipe = Formula(diverging=4)
    run(recipe, tmp_path, trials=5)
    assert len(recipe.trained) == 5 and "Best: trial 4" in capsys.readouterr().out
    with pytest.raises(errors.RecipeError, match="^no trial succeeded; [^\n]*nan$"):
        run(Formula(diverging=4), tmp_path / "all", trials=4)


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
    oracle = search.make_oracle("random", space, recipe.PROMISE, 2, 0)
    tuner = search.Search(recipe, 0, oracle=oracle, directory=tmp_path / "search", project_name="keras_tuner")
    defaults, drawn = (tuner.oracle.trials[str(trial)] for trial in range(2))
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
    assert tuple(search.ORACLES) == command_line.TUNERS
