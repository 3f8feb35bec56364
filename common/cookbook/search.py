"""Searches a recipe's hyperparameters with KerasTuner; every trial trains as a plain run does."""

import math
import time

import grpc
import keras
import keras_tuner
from keras_tuner.src import config

from common import callbacks, data, files, plots
from common.cookbook import errors, oracles, preparation, results, runs, settings, workers


class Aborted(errors.RecipeError, keras_tuner.errors.FatalError):
    """Ends the search; of other errors in a trial, KerasTuner says that the trial failed."""


class Search(keras_tuner.Tuner):
    """Runs `recipe.train` once per trial, so that a plain run with a trial's values and seed reproduces its score."""

    def __init__(self, recipe, seed, oracle, **arguments):
        self.recipe, self.seed = recipe, seed
        super().__init__(oracle, **arguments)
        oracle.reload()

    def save(self):
        """Does nothing, since the oracle saves all that the search knows."""

    def run_trial(self, trial):
        """Trains with the trial's values; returns {metric: score}.

        Raises:
            keras_tuner.errors.FailedTrialError: the training failed or diverged; other values may do better.
            Aborted: something outside the trial failed, such as the disk; the trial will be run again.
        """
        start = time.perf_counter()
        values = trial_values(self.recipe, trial)
        metric = self.recipe.PROMISE["monitor"]["metric"]
        try:
            print(f"Trial {trial.trial_id}: {results.assignments(values)}")
            score = self.train(values)
            if not math.isfinite(score):
                raise callbacks.Diverged(f"{metric} is {score}")
            print(f"Trial {trial.trial_id}: {metric} {score:.6g} in {time.perf_counter() - start:.0f} seconds")
        except Exception as error:
            reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[-1:]])
            # Keras raises no class of its own when weights can't be downloaded.
            if isinstance(error, (OSError, errors.RecipeError)) or "URL fetch failure" in str(error):
                told = f"trial {trial.trial_id} was interrupted: {reason}; rerun the same command to continue"
                raise Aborted(told) from error
            print(f"Trial {trial.trial_id} failed: {reason}")
            raise keras_tuner.errors.FailedTrialError(reason) from error
        return {metric: score}

    def train(self, values):
        """The score of a training with these values."""
        hp, histories = settings.build(self.recipe.configure, values), {}
        keras.backend.clear_session()
        data.shuffle.counters.clear()
        of_every_fit = [callbacks.History(histories), callbacks.StopAtNaN(), callbacks.Progress()]
        model = self.recipe.train(hp, self.seed, of_every_fit)
        return runs.validation_score(self.recipe, model, hp, histories)

    def _run_and_update_trial(self, trial, *arguments, **options):
        """Raises Aborted if the chief does not answer: KerasTuner would say that the trial failed."""
        try:
            super()._run_and_update_trial(trial, *arguments, **options)
        except grpc.RpcError as error:
            raise Aborted(no_answer(error)) from None


def trial_values(recipe, trial):
    """A trial's hyperparameters; Hyperband's number of epochs replaces the recipe's."""
    known = [each.name for each in recipe.configure(keras_tuner.HyperParameters()).space]
    values = {name: value for name, value in trial.hyperparameters.values.items() if name in known}
    if "tuner/epochs" in trial.hyperparameters.values:
        values["epochs"] = trial.hyperparameters.values["tuner/epochs"]
    return values


def search_space(entry, recipe, values):
    """The recipe's hyperparameters, with `values` and the pinned ones fixed across trials."""
    hp = keras_tuner.HyperParameters()
    defaults = recipe.configure(keras_tuner.HyperParameters())
    fixed = {name: defaults[name] for name in entry.pinned}
    for name, value in {**fixed, **values}.items():
        hp.Fixed(name, value)
    return recipe.configure(hp)


def search(entry, recipe, values, options, directory):
    """Searches, or resumes the search in `directory`, and reports the best values.

    values: hyperparameters that are fixed across trials.
    options: the command line's `search` (number of trials), `tuner` and `seed`.

    Raises:
        errors.RecipeError: the directory contains a search with another space or seed.
    """
    role = workers.role()
    space = search_space(entry, recipe, values)
    identity = {"recipe": entry.name, "seed": options.seed, "space": space.get_config()["space"]}
    runs.check_names(directory)
    started = results.read_json(directory / "space.json", {"recipe": str, "seed": int, "space": list})
    if started and started != identity:
        raise errors.RecipeError(
            f"{directory} contains a search with another space or seed: choose another --out, or delete it"
        )
    files.write_json(directory / "space.json", identity)
    print(f"The search is saved in {directory}; the same command resumes it.")
    preparation.prepare(recipe.PROMISE["data"])
    config.DEBUG = False  # KerasTuner would print the traceback of every trial that fails.
    oracle = oracles.make(options.tuner, space, recipe.PROMISE["monitor"], options.search, options.seed)
    tuner = Search(recipe, options.seed, oracle, directory=directory, project_name="keras_tuner")
    if oracle.ended >= options.search:
        print("All trials are already done; nothing is run again.")
    else:
        run(tuner, oracle, role, options.search)
    if role != "worker":
        summarize(recipe, oracle, options.seed, directory)


def run(tuner, oracle, role, count):
    """Runs the trials that remain of `count`; a chief has its workers run them.

    Raises:
        errors.RecipeError: the chief can't listen, or does not answer.
    """
    if oracle.trials:
        unfinished = len(oracle.trials) - oracle.ended
        state = "interrupted and run again" if role == "alone" else "in progress, or interrupted and run again"
        print(f"{oracle.ended} of {count} trials are done; {state}: {unfinished}.")
    if role == "chief":
        workers.check_port()
        print(f"Waiting for workers at {workers.address()}.", flush=True)
    if role == "worker":
        print(f"Waiting for the chief at {workers.address()}.", flush=True)
    try:
        tuner.search()
    except grpc.RpcError as error:
        raise errors.RecipeError(no_answer(error)) from None


def no_answer(error):
    """What a worker reports for a grpc.RpcError."""
    return f"the chief at {workers.address()} does not answer ({error.details()}): start it, then this worker again"


def summarize(recipe, oracle, seed, directory):
    """Prints the table of trials and the best values as a `--set` line; draws `search.png`."""
    monitor = recipe.PROMISE["monitor"]
    trials = [oracle.trials[name] for name in sorted(oracle.trials, key=int)]
    varied = [each.name for each in oracle.get_space().space if type(each).__name__ != "Fixed"]
    print(f"\ntrial  {monitor['metric']:>16}  values")
    for trial in trials:
        shown = {name: trial.hyperparameters.values[name] for name in varied}
        told = f"{trial.score:.6g}" if trial.score is not None else trial.status.lower()
        print(f"{trial.trial_id:>5}  {told:>16}  {results.assignments(shown)}")
    if all(trial.score is None for trial in trials):
        # A worker tells the chief that a trial failed, but not why.
        told = (trials[-1].message or "see the output of the workers").strip().splitlines()[-1]
        reason = told.rpartition("FailedTrialError: ")[2]
        raise errors.RecipeError(f"no trial succeeded; the last one failed with: {reason}")
    best = oracle.get_best_trials(1)[0]
    print(f"\nBest: trial {best.trial_id}, {monitor['metric']} {best.score:.6g}; run it with")
    print(f"  --seed {seed} --set {results.assignments(trial_values(recipe, best))}")
    picture = plots.search([trial.score for trial in trials], monitor["better"], monitor["metric"])
    with files.replacing(directory / "search.png") as unfinished:
        picture.savefig(unfinished)
