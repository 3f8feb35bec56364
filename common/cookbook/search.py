"""Searches a recipe's hyperparameters with KerasTuner; every trial trains as a plain run does."""

import os
import time

import keras
import keras_tuner

from common import callbacks, data, files, plots
from common.cookbook import errors, preparation, results, runs, settings


class DefaultsFirst:
    """A KerasTuner oracle whose trial 0 uses the recipe's defaults."""

    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if int(trial_id) == 0:
            defaults = {each.name: each.default for each in self.get_space().space}
            response["values"] = {**response["values"], **defaults}
        return response


class Random(DefaultsFirst, keras_tuner.oracles.RandomSearchOracle):
    """Draws every trial at random."""


class Bayesian(DefaultsFirst, keras_tuner.oracles.BayesianOptimizationOracle):
    """Models the score with a Gaussian process."""


class Hyperband(DefaultsFirst, keras_tuner.oracles.HyperbandOracle):
    """Starts many short trials and gives the better ones more epochs (Li et al. 2018)."""


ORACLES = {"random": Random, "bayesian": Bayesian, "hyperband": Hyperband}


class Search(keras_tuner.Tuner):
    """Runs `recipe.train` once per trial, so that a plain run with a trial's values and seed reproduces its score."""

    def __init__(self, recipe, seed, **arguments):
        self.recipe, self.seed = recipe, seed
        super().__init__(**arguments)

    def run_trial(self, trial):
        start = time.perf_counter()
        values = trial_values(self.recipe, trial)
        hp = settings.build(self.recipe.configure, values)
        histories = {}
        print(f"Trial {trial.trial_id}: {results.assignments(values)}")
        keras.backend.clear_session()
        data.shuffle.counters.clear()
        try:
            of_every_fit = [callbacks.History(histories), callbacks.StopAtNaN(), callbacks.Progress()]
            model = self.recipe.train(hp, self.seed, of_every_fit)
        except callbacks.Diverged as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        monitor = self.recipe.PROMISE["monitor"]
        value = runs.validation_score(self.recipe, model, hp, histories)
        print(f"Trial {trial.trial_id}: {monitor['metric']} {value:.6g} in {time.perf_counter() - start:.0f} seconds")
        return {monitor["metric"]: value}


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


def make_oracle(kind, space, promise, trials, seed):
    """The KerasTuner oracle of a search over `space` with at most `trials` trials."""
    direction = {"higher": "max", "lower": "min"}[promise["monitor"]["better"]]
    common_arguments = {
        "objective": keras_tuner.Objective(promise["monitor"]["metric"], direction),
        "hyperparameters": space,
        "seed": seed + 1,  # KerasTuner treats 0 as no seed at all.
        "max_consecutive_failed_trials": trials + 1,  # By default, three in a row that diverge would end the search.
    }
    if kind == "hyperband":
        if "epochs" not in space.values:
            raise errors.RecipeError("hyperband varies epochs, and this recipe has none: choose another --tuner")
        oracle = Hyperband(max_epochs=space["epochs"], hyperband_iterations=trials, **common_arguments)
        oracle.max_trials = trials
        return oracle
    return ORACLES[kind](max_trials=trials, **common_arguments)


def search(entry, recipe, values, options, directory):
    """Searches, or resumes the search in `directory`, and reports the best values.

    values: hyperparameters that are fixed across trials.
    options: the command line's `search` (number of trials), `tuner` and `seed`.

    Raises:
        errors.RecipeError: the directory contains a search with another space or seed.
    """
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
    oracle = make_oracle(options.tuner, space, recipe.PROMISE, options.search, options.seed)
    oracle.verbose = 0
    tuner = Search(recipe, options.seed, oracle=oracle, directory=directory, project_name="keras_tuner")
    if oracle.remaining_trials() == 0:
        print("All trials are already done; nothing is run again.")
    tuner.search()
    if "chief" in os.environ.get("KERASTUNER_TUNER_ID", "chief"):
        summarize(recipe, oracle, options.seed, directory)


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
    finished = [trial for trial in trials if trial.score is not None]
    if not finished:
        told = (trials[-1].message or "no more").strip().splitlines()[-1]  # The last line of a traceback.
        raise errors.RecipeError(f"no trial succeeded; the last one failed with: {told}")
    best = oracle.get_best_trials(1)[0]
    picture = plots.search([trial.score for trial in trials], monitor["better"], monitor["metric"])
    picture.savefig(directory / "search.png")
    print(f"\nBest: trial {best.trial_id}, {monitor['metric']} {best.score:.6g}; run it with")
    print(f"  --seed {seed} --set {results.assignments(trial_values(recipe, best))}")
