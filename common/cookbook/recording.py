"""`--record`: makes a finished run the recipe's record, which is in git. A run itself never writes there."""

import shutil

from common import files
from common.cookbook import errors, locking, results, settings

NOT_COPIED = ("results.json", "results-damaged.json", "fewer-seeds.json", "last-epoch.keras", "lock")


def record(entry, recipe, run):
    """Copies the files of the finished run in the directory `run` to the record; `results.json` goes last.

    Returns:
        A message.

    Raises:
        errors.RecipeError: there is no finished run, it is not the recipe's as it stands, or the record has more seeds.
    """
    if not (run / "results.json").exists():
        raise errors.RecipeError(f"no finished run in {run} that could become the record")
    with locking.locked(run):
        measured = results.read(run / "results.json")
        defaults = dict(settings.build(recipe.configure, {}).values)
        if measured["recipe"] != entry.name or measured["hyperparameters"] != defaults:
            raise errors.RecipeError(
                f"only a run of {entry.name} with its default hyperparameters can become the record, not that in {run}"
            )
        recorded = entry.results
        if results.outnumbers(recorded, measured):
            raise errors.RecipeError(
                f"the record has {len(recorded['seeds'])} seeds, and the run in {run} only {len(measured['seeds'])}"
            )
        if (run / "backup").exists() or (run / "fewer-seeds.json").exists():
            raise errors.RecipeError(f"{run} contains files of a later run than its results: repeat it with all seeds")
        copied = [path for path in run.iterdir() if path.is_file() and path.name not in NOT_COPIED]
        for path in copied:
            with files.replacing(entry.directory / path.name) as unfinished:
                shutil.copyfile(path, unfinished)
        pictures = {path.name for path in copied if path.suffix == ".png"}
        for old in entry.directory.glob("*.png"):
            if pictures and old.name not in pictures:
                old.unlink()
        results.record(measured, entry.directory)
    return f"The run in {run} is now the record in {entry.directory}; `python -m recipes table` updates the pages."
