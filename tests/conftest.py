"""What several test files share: every recipe found in the folder, and one tiny run of each."""

import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # A core for each of the parallel workers.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras
import pytest
from xdist.scheduler import loadscope

from common import catalogue, data, errors, runner

NAMES = [entry.name for entry in catalogue.entries()]


def pytest_generate_tests(metafunc):
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if mark.args[0] == "name"]
    if "name" in metafunc.fixturenames and not chosen:
        metafunc.parametrize("name", NAMES)


class ByRecipe(loadscope.LoadScopeScheduling):
    """Gives all tests of a recipe to one of the parallel workers, so that its tiny run is made once."""

    def _split_scope(self, nodeid):
        return next((name for name in NAMES if f"[{name}]" in nodeid), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config, log):
    return ByRecipe(config, log)


@pytest.fixture
def entry(name):
    return catalogue.entry(name)


@pytest.fixture
def recipe(name):
    return importlib.import_module(f"recipes.{name}")


class Killed(Exception):
    """Stands for a kill at the beginning of an epoch."""


class KillAt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Killed


class TinyRun:
    """A finished `--tiny` run: its results, the folder of its files, and the model that `train` returned."""

    def __init__(self, name, out):
        entry, recipe = catalogue.entry(name), importlib.import_module(f"recipes.{name}")
        self.out, self.splits_of_training = out, []
        original = recipe.train, recipe.load_data

        def train(*arguments):
            def load_data(hp, split, *others, **options):
                self.splits_of_training.append(split)
                return original[1](hp, split, *others, **options)

            recipe.load_data = load_data
            try:
                trained = original[0](*arguments)
            finally:
                recipe.load_data = original[1]
            self.model = next(iter(trained.values())) if isinstance(trained, dict) else trained
            return trained

        recipe.train = train
        try:
            self.results = runner.execute(entry, recipe, recipe.TINY, [0], out)
            self.stages = list(self.results["examples_per_second"])
        finally:
            recipe.train = original[0]


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """A function from a recipe's name to its tiny run, made once a session; skips where the data are absent."""
    finished = {}

    def get(name):
        if name not in finished:
            try:
                finished[name] = TinyRun(name, tmp_path_factory.mktemp(name))
            except data.Unavailable as error:
                finished[name] = error
            # What a run leaves in memory stays: to look for garbage in it again and again takes a while.
            gc.freeze()
        if isinstance(finished[name], errors.RecipeError):
            pytest.skip(f"{name}: {finished[name]}")
        return finished[name]

    return get


@pytest.fixture
def tiny_run(name, tiny_runs):
    return tiny_runs(name)


RUN_SCRIPTS = """
import contextlib, io, json, os, runpy, sys, traceback

for line in sys.stdin:
    folder, *sys.argv = json.loads(line)
    os.chdir(folder)
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    output, failure = io.StringIO(), None
    with contextlib.redirect_stdout(output):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except BaseException:
            failure = traceback.format_exc()
    del sys.path[0]
    print(json.dumps([output.getvalue(), failure]), flush=True)
"""


class OtherProcess:
    """A Python process that knows nothing of the cookbook and runs one script after another.

    One for many scripts, since importing TensorFlow takes longer than most of them.
    """

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", RUN_SCRIPTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, folder):
        """Runs `python SCRIPT ARGUMENTS` in a folder; returns what it printed."""
        print(json.dumps([str(each) for each in (folder, script, *arguments)]), file=self.process.stdin, flush=True)
        output, failure = json.loads(self.process.stdout.readline())
        assert failure is None, failure
        return output

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# Two processes: what a copied recipe defines must not help a saved model to load.
@pytest.fixture(scope="session")
def process_of_copies():
    process = OtherProcess()
    yield process
    process.close()


@pytest.fixture(scope="session")
def process_of_models():
    process = OtherProcess()
    yield process
    process.close()
