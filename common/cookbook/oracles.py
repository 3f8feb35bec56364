"""KerasTuner's oracles, which choose the values of a search's trials and keep the results."""

import pathlib

import keras_tuner
from keras_tuner.engine import trial as trials

from common import files
from common.cookbook import errors

ENDED = ("COMPLETED", "FAILED")  # What KerasTuner calls the trials that are not run again.


class Oracle:
    """Gives trial 0 the recipe's defaults, and keeps all that it knows in one file, which is whole at any moment.

    KerasTuner's own files, one per trial and one beside them, are written in place and one after the other. A kill or
    a full disk in between loses a trial, or leaves a file that no later search can read.
    """

    @property
    def path(self):
        return pathlib.Path(self._get_oracle_fname())

    @property
    def ended(self):
        """How many trials have a score or have failed."""
        return sum(trial.status in ENDED for trial in self.trials.values())

    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if int(trial_id) == 0:
            defaults = {each.name: each.default for each in self.get_space().space}
            response["values"] = {**response["values"], **defaults}
        return response

    def get_state(self):
        return {**super().get_state(), "trials": [trial.get_state() for trial in self.trials.values()]}

    def set_state(self, state):
        self.trials = {each["trial_id"]: trials.Trial.from_state(each) for each in state["trials"]}
        # KerasTuner saves a trial's result before it takes the trial off this list, and would run it again.
        ongoing = state["ongoing_trials"].items()
        ongoing = {tuner: name for tuner, name in ongoing if self.trials[name].status not in ENDED}
        super().set_state({**state, "ongoing_trials": ongoing})

    def save(self):
        """Replaces the file; if the disk is full, the search goes on, and the next call saves what this one did not."""
        try:
            files.write_json(self.path, self.get_state())
        except OSError as error:
            print(f"The search goes on, but could not be saved in {self.path}: {error.strerror}.")

    def _save_trial(self, trial):
        """Does nothing, since `save` saves the trials too."""

    def reload(self):
        """Goes on from the file if there is one; trials that were interrupted are run again, with the same values.

        Raises:
            errors.RecipeError: the file is damaged.
        """
        if not self.path.exists():
            return
        try:
            super().reload()
        except Exception as error:  # It depends on the damage which one.
            raise errors.RecipeError(
                f"{self.path} can't be read: delete it, and the search begins again, with the same trials"
            ) from error


class Random(Oracle, keras_tuner.oracles.RandomSearchOracle):
    """Draws every trial at random."""


class Bayesian(Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Models the score with a Gaussian process."""


class Hyperband(Oracle, keras_tuner.oracles.HyperbandOracle):
    """Starts many short trials and gives the better ones more epochs (Li et al. 2018)."""


KINDS = {"random": Random, "bayesian": Bayesian, "hyperband": Hyperband}


def make(kind, space, monitor, count, seed):
    """The oracle of a search over `space` with at most `count` trials.

    kind: a key of KINDS.
    monitor: the promise's {"metric", "better"}.
    """
    direction = {"higher": "max", "lower": "min"}[monitor["better"]]
    common_arguments = {
        "objective": keras_tuner.Objective(monitor["metric"], direction),
        "hyperparameters": space,
        "seed": seed + 1,  # KerasTuner treats 0 as no seed at all.
        "max_consecutive_failed_trials": count + 1,  # By default, three in a row would end the search.
    }
    if kind == "hyperband":
        if "epochs" not in space.values:
            raise errors.RecipeError("hyperband varies epochs, and this recipe has none: choose another --tuner")
        oracle = Hyperband(max_epochs=space["epochs"], hyperband_iterations=count, **common_arguments)
        oracle.max_trials = count
    else:
        oracle = KINDS[kind](max_trials=count, **common_arguments)
    oracle.verbose = 0
    return oracle
