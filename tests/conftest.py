"""What several test files share: every recipe found in the folder, and one tiny run of each."""

import collections
import gc
import importlib
import inspect
import json
import os
import pathlib
import resource
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # A core for each of the parallel workers.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras
import pytest
import tensorflow as tf
from xdist.scheduler import loadscope

from common import decoding
from common.cookbook import catalogue, preparation, runs, settings
from known_answers import readers

NAMES = [entry.name for entry in catalogue.entries()]
# Small recipes of every kind that the shape must carry; what holds for a recipe holds for them.
KINDS = [f"kinds.{path.stem}" for path in sorted((pathlib.Path(__file__).parent / "kinds").glob("[a-z]*.py"))]


def pytest_generate_tests(metafunc):
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if mark.args[0] == "name"]
    if "name" in metafunc.fixturenames and not chosen:
        recorded = metafunc.definition.get_closest_marker("recorded")
        metafunc.parametrize("name", NAMES if recorded else NAMES + KINDS)


class ByRecipe(loadscope.LoadScopeScheduling):
    """Gives all tests of a recipe to one of the parallel workers, so that its tiny run is made once."""

    def _split_scope(self, nodeid):
        return next((name for name in NAMES + KINDS if f"[{name}]" in nodeid), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config, log):
    return ByRecipe(config, log)


def cpu_seconds():
    """What this process has taken, its finished children, and the processes that run scripts for it."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + OtherProcess.cpu_seconds


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Notes the CPU seconds since the report before: those of this phase of the test."""
    report = yield
    now = cpu_seconds()
    report.user_properties.append(("cpu", now - getattr(item.session, "cpu_before", now)))
    item.session.cpu_before = now
    return report


def pytest_terminal_summary(terminalreporter):
    """Prints the CPU seconds that the tests of each recipe have cost."""
    cost = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                owner = next((name for name in NAMES + KINDS if f"[{name}" in report.nodeid), "everything else")
                cost[owner] += sum(value for name, value in report.user_properties if name == "cpu")
    if len(cost) > 1:
        terminalreporter.section("CPU seconds")
        for owner, seconds in cost.most_common():
            terminalreporter.write_line(f"{seconds:7.1f}  {owner}")


@pytest.fixture
def entry(name):
    return entry_of(name)


def entry_of(name):
    if name in KINDS:
        return catalogue.Entry(name, pathlib.Path(__file__).parent / "kinds" / f"{name.split('.')[1]}.py")
    return catalogue.entry(name)


@pytest.fixture
def recipe(name):
    return module_of(name)


def module_of(name):
    return importlib.import_module(name if name in KINDS else f"recipes.{name}")


@pytest.fixture
def hp(recipe):
    """The hyperparameters of a tiny run."""
    return settings.build(recipe.configure, recipe.TINY)


class Killed(Exception):
    """Stands for a kill at the beginning of an epoch."""


class KillAt(keras.callbacks.Callback):
    """Kills the first fit that reaches `epoch`, counted from 0; of a run whose fits are shorter the second fit."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.fits = epoch, 0

    def on_train_begin(self, logs=None):
        self.fits += 1

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch or self.fits == 2:
            raise Killed


class FirstWeights(keras.callbacks.Callback):
    """Keeps every trainable weight of every fit as it was when the first fit of it began."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_begin(self, logs=None):
        for weight in self.model.trainable_weights:
            self.seen.setdefault(id(weight), (weight, keras.ops.convert_to_numpy(weight)))


class Fits(keras.callbacks.Callback):
    """Notes what every fit, by the name of its model, began with, validated and ended with; how its optimizer ended."""

    def __init__(self):
        super().__init__()
        self.first_weights, self.validated_weights, self.last_weights, self.optimizers = {}, {}, {}, {}

    def on_train_begin(self, logs=None):
        self.first_weights[self.model.name] = self.model.get_weights()

    def on_test_batch_begin(self, batch, logs=None):
        self.validated_weights[self.model.name] = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.last_weights[self.model.name] = self.model.get_weights()
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            rate = optimizer.get_config()["learning_rate"]
            self.optimizers[self.model.name] = {
                "peak": rate["config"]["warmup_target"] if isinstance(rate, dict) else rate,
                "last": float(optimizer.learning_rate),
                "clip_norm": optimizer.clipnorm or optimizer.global_clipnorm,
            }


COMPILE = keras.Model.compile


def compile_for_single_steps(self, *arguments, **options):
    """Keras's `compile`, for one step per execution: that is traced faster, and gives the same weights."""
    return COMPILE(self, *arguments, **{**options, "steps_per_execution": 1})


DECODING = ("decoder", "beam_search", "greedy")  # What recipes use of `common.decoding`, besides `sample`.


def decoding_of(recipe):
    """The functions of `DECODING` that a recipe imports, by name."""
    return {name: getattr(decoding, name) for name in DECODING if vars(recipe).get(name) is getattr(decoding, name)}


def recorder_of_limits(function, calls):
    """A function of `DECODING`, of each of whose calls the first token, last token, length and alpha are noted."""

    def recorded(*arguments, **options):
        given = inspect.signature(function).bind(*arguments, **options)
        given.apply_defaults()
        given = {name.removesuffix("_token"): value for name, value in given.arguments.items()}
        calls.append(
            {"alpha": 0.0, **{name: given[name] for name in given.keys() & {"start", "end", "length", "alpha"}}}
        )
        if "tokens" in given:  # In a function that is being traced, they have no values yet.
            tf.numpy_function(lambda tokens, call=calls[-1]: call.update(start=tokens), [given["tokens"]], [])
        return function(*arguments, **options)

    return recorded


class TinyRun:
    """A `--tiny` run that was killed once and resumed: results, directory, what `train` got, read and returned.

    decoded: what the run's calls of the functions of `DECODING` were given.
    """

    def __init__(self, name, out):
        self.entry, self.recipe, self.out = entry_of(name), module_of(name), out
        self.splits_of_training, self.labels_of_training = [], []
        self.killed, self.first_weights, self.fits, self.decoded = False, FirstWeights(), Fits(), []
        original = self.recipe.train

        def train_until_killed(hp, seed, callbacks):
            return original(hp, seed, [*callbacks, KillAt(1)])

        def watched(function):
            def read(*arguments, **options):
                given = inspect.signature(function).bind(*arguments, **options).arguments
                self.splits_of_training.append(given["split"])
                self.labels_of_training.append(given.get("labels"))
                return function(*arguments, **options)

            return read

        def train_watched(hp, seed, callbacks):
            with pytest.MonkeyPatch.context() as patch:
                for reader, function in readers(self.recipe).items():
                    patch.setattr(self.recipe, reader, watched(function))
                trained = original(hp, seed, [self.first_weights, self.fits, *callbacks])
            self.hp, self.trained = hp, trained
            self.models = trained if isinstance(trained, dict) else {"model": trained}
            return trained

        try:
            self.recipe.train = train_until_killed
            try:
                self.results = self.execute()
            except Killed:
                self.killed = True
            self.recipe.train = train_watched
            self.results = self.execute(resume=self.killed)
        finally:
            self.recipe.train = original

    def execute(self, resume=False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.Model, "compile", compile_for_single_steps)
            for name, function in decoding_of(self.recipe).items():
                patch.setattr(self.recipe, name, recorder_of_limits(function, self.decoded))
            return runs.execute(self.entry, self.recipe, self.recipe.TINY, [0], self.out, resume)

    @property
    def model(self):
        return self.models["model"]


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """A function from a recipe's name to its tiny run, made once a session; skips where the data are absent."""
    finished = {}

    def get(name):
        if name not in finished:
            try:
                finished[name] = TinyRun(name, tmp_path_factory.mktemp(name))
            except Exception as error:  # Kept: a run that crashes once would crash again for every test.
                finished[name] = error
            # What a run leaves in memory stays: to look for garbage in it again and again takes a while.
            gc.freeze()
        if isinstance(finished[name], preparation.Unavailable):
            pytest.skip(f"{name}: {finished[name]}")
        if isinstance(finished[name], Exception):
            raise finished[name]
        return finished[name]

    return get


@pytest.fixture
def tiny_run(name, tiny_runs):
    return tiny_runs(name)


@pytest.fixture
def keras_run(tiny_run):
    """The tiny run of a recipe that trains a Keras model; of the others there is nothing to test."""
    if not isinstance(tiny_run.model, keras.Model):
        pytest.skip("no Keras model")
    return tiny_run


RUN_SCRIPTS = """
import contextlib, gc, io, json, os, runpy, sys, time, traceback

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
    gc.freeze()
    print(json.dumps([output.getvalue(), failure, time.process_time()]), flush=True)
"""


class OtherProcess:
    """A Python process that knows nothing of the cookbook and runs one script after another.

    One for many scripts, since importing TensorFlow takes longer than most of them.
    """

    cpu_seconds = 0.0  # Of all of them.

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", RUN_SCRIPTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.before = 0.0

    def run(self, script, *arguments, folder):
        """Runs `python SCRIPT ARGUMENTS` in a folder; returns what it printed."""
        print(json.dumps([str(each) for each in (folder, script, *arguments)]), file=self.process.stdin, flush=True)
        output, failure, now = json.loads(self.process.stdout.readline())
        OtherProcess.cpu_seconds += now - self.before
        self.before = now
        assert failure is None, failure
        return output

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        OtherProcess.cpu_seconds -= self.before  # Now they count as a finished child's.


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
