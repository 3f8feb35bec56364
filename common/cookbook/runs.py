"""Runs a recipe and saves what the run produces."""

import csv
import io
import os
import pathlib
import platform
import shutil
import time

import keras
import numpy as np
import tensorflow as tf

from common import callbacks, data, files, plots
from common.cookbook import answers, errors, integrity, locking, output, preparation, results, settings


def clocks():
    """Wall-clock seconds, and CPU seconds of all cores together; on a shared machine, compare the latter."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


class Run:
    """One training run from one seed: its callbacks, and the time that it takes.

    out: the directory of the run's files.
    seed: the run's seed.
    histories: {seed: {model's name: {metric: one value per epoch}}}, filled as the run proceeds.
    resume: whether to continue from the backups of a killed run.
    """

    def __init__(self, out, seed, histories, resume):
        backup = out / "backup" / f"seed-{seed}"
        before = callbacks.elapsed_so_far(backup) if resume else {}
        self.start = {name: now - before.get(name, 0.0) for name, now in clocks().items()}
        self.stages = histories[seed] = {}
        self.resume = callbacks.Resume(backup, self.stages, self.elapsed, resume)
        self.callbacks = [
            callbacks.Throughput(),
            callbacks.StopAtNaN(),
            self.resume,
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: write_history(out / "history.csv", histories)
            ),
            callbacks.Logs(out / "logs" / f"seed-{seed}"),
            callbacks.Progress(),
        ]

    def elapsed(self):
        """The time that the run has taken, {"seconds", "cpu_seconds"}, including the time before an interruption."""
        return {name: now - self.start[name] for name, now in clocks().items()}

    def rescue(self, path):
        """Saves the model as of the last finished epoch of the fit that was interrupted; returns a message."""
        if not self.stages or not self.resume.path.exists():
            return f"no epoch of {self.resume.model.name} was finished" if self.stages else "no epoch was finished"
        epochs = self.resume.load()["epochs"]
        model = self.resume.model
        if not getattr(model, "inputs", None):
            return f"epoch {epochs} is saved in {self.resume.path}"
        save_model(model, path)
        return f"epoch {epochs} is saved in {path}"


def save_model(model, path):
    """Saves for inference: without optimizer, loss and metrics, so that a default `load_model` needs none of them."""
    with files.replacing(path) as unfinished:
        keras.Model(model.inputs, model.outputs, name=model.name).save(unfinished)


def write_history(path, histories):
    """Writes one row per epoch: seed, model, epoch and every metric of any model.

    histories: {seed: {model's name: {metric: one value per epoch}}}.
    """
    metrics = sorted({metric for models in histories.values() for history in models.values() for metric in history})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["seed", "model", "epoch", *metrics])
    for seed, models in histories.items():
        for model, history in models.items():
            for epoch in range(max(map(len, history.values()), default=0)):
                values = [history[metric][epoch] if metric in history else "" for metric in metrics]
                writer.writerow([seed, model, epoch + 1, *values])
    files.write_text(path, text.getvalue())


def machine():
    """The machine that the figures were measured on."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "system": platform.system(),
    }


def versions():
    """The package versions that a figure may depend on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


FILES = (".csv", ".json", ".keras", ".png", ".txt")  # What the names of the files that a run writes end in.
DIRECTORIES = ("backup", "logs")


def check_names(out):
    """Refuses an output directory in which a name is taken that a run would need, some of them only at its end.

    Raises:
        errors.RecipeError: a directory has the name of a file, or a file that of a directory.
    """
    for path in out.iterdir() if out.is_dir() else ():
        taken = path.is_dir() if path.suffix in FILES else path.name in DIRECTORIES and not path.is_dir()
        if taken:
            raise errors.RecipeError(f"{path} is in the way: move it, or choose another --out")


def claim(out, entry, identity, resume, own):
    """Makes `out` ready for a run, or refuses.

    identity: what must be the same for a run to be resumed: recipe, hyperparameters, seeds.
    own: whether `out` is the recipe's default output directory, where results of earlier defaults may be replaced.

    Raises:
        errors.RecipeError: the directory contains a run of another recipe or setting, or there is nothing to resume.
    """
    check_names(out)
    try:
        recorded = results.recorded(entry, out)
    except errors.Damaged:
        recorded = None
        os.replace(out / "results.json", out / "results-damaged.json")
        print(f"{out / 'results.json'} is damaged; it was moved to {out / 'results-damaged.json'}.")
    if recorded and not own and recorded["hyperparameters"] != identity["hyperparameters"]:
        raise errors.RecipeError(f"{out} contains results of other hyperparameters: choose another --out")
    backup = out / "backup"
    try:
        started = results.read_json(backup / "identity.json", results.RUN)
    except errors.Damaged:
        if resume:
            raise
        started = None
    if resume and not started:
        raise errors.RecipeError(f"nothing to resume in {out}: start without --resume")
    if resume:
        for key, value in identity.items():
            if started[key] != value:
                raise errors.RecipeError(f"{out} contains a run of {difference(key, started[key], value)}")
        return
    if started and started["recipe"] != entry.name:
        raise errors.RecipeError(f"{out} contains an unfinished run of {started['recipe']}: choose another --out")
    if any(backup.glob("*/*.npz")):
        previous = out / "backup-previous"
        shutil.rmtree(previous, ignore_errors=True)
        backup.rename(previous)
        remedy = f"to continue it, rename that to {backup.name} and use --resume" if started else "it can't be resumed"
        print(f"An unfinished run was moved to {previous}; {remedy}.")
    elif backup.exists():
        shutil.rmtree(backup)  # Stopped before the end of an epoch, it holds nothing.
    files.write_json(backup / "identity.json", identity)


def can_resume(out):
    """Whether the directory contains an unfinished run."""
    return (out / "backup" / "identity.json").exists()


def difference(key, started, given):
    """Explains why a run can't be resumed."""
    if key != "hyperparameters":
        return f"{key} {started}, not {given}: use the same, or choose another --out"
    changed = [name for name in {**started, **given} if started.get(name) != given.get(name)]
    return "; ".join(f"{name}={started.get(name)}, not {given.get(name)}" for name in changed) + ": use the same --set"


def validation_score(recipe, model, hp, histories):
    """What a search compares: the last epoch's monitored value or, without a fit, the result of `recipe.validate`."""
    metric = recipe.PROMISE["monitor"]["metric"]
    if hasattr(recipe, "validate"):
        return float(recipe.validate(model, hp)[metric])
    return results.score(histories, metric)


def execute(entry, recipe, values, seeds, out, resume=False, own=False, record=results.record):
    """Trains and evaluates one run per seed; saves the first seed's model and plots.

    record: function that saves the results, given these and `out`.

    Returns:
        The results.
    """
    hp = settings.build(recipe.configure, values)
    identity = {"recipe": entry.name, "hyperparameters": dict(hp.values), "seeds": seeds}
    with locking.locked(out):
        claim(out, entry, identity, resume, own)
        preparation.prepare(recipe.PROMISE["data"])
        try:
            collected = measure(entry, recipe, hp, seeds, out, resume, own)
        except callbacks.BrokenBackup as error:
            raise errors.Damaged(f"{error}; start again without --resume") from None
        record(collected, out)
        # Last, so that a run that is killed at any moment can be resumed; renamed first, so that no half of it is used.
        finished = out / "backup-finished"
        shutil.rmtree(finished, ignore_errors=True)
        (out / "backup").rename(finished)
        shutil.rmtree(finished)
    return collected


# What is kept of a finished seed.
MEASURED = {
    "metrics": dict,
    "score": results.NUMBER,
    "elapsed": {"seconds": results.NUMBER, "cpu_seconds": results.NUMBER},
    "histories": dict,
}


def measure(entry, recipe, hp, seeds, out, resume, own):
    """Trains and evaluates one model per seed, saves that of the first, and returns the results.

    What a seed gave is written as soon as it is measured, so that a resumed run does not measure it again.
    """
    histories, finished = {}, []
    for seed in seeds:
        path = out / "backup" / f"seed-{seed}" / "measured.json"
        of_seed = results.read_json(path, MEASURED) if resume else None
        if of_seed:
            histories[seed] = of_seed["histories"]
        else:
            of_seed = measure_seed(recipe, hp, seed, out, resume, own, histories, first=seed == seeds[0])
            files.write_json(path, of_seed)
        finished.append(of_seed)
        name = recipe.PROMISE["figure"]["metric"]
        print(
            f"Seed {seed}: {name.replace('_', ' ')} {results.number(of_seed['metrics'][name])}, "
            f"{of_seed['elapsed']['seconds']:.0f} seconds, {of_seed['elapsed']['cpu_seconds']:.0f} of CPU"
        )
    measured, elapsed, scores = ([each[key] for each in finished] for key in ("metrics", "elapsed", "score"))
    return {
        "recipe": entry.name,
        "seeds": seeds,
        **results.collect(recipe.PROMISE, measured, elapsed, scores),
        "examples_per_second": results.throughput(histories[seeds[0]]),
        "hyperparameters": dict(hp.values),
        "data": preparation.describe(recipe),
        "machine": machine(),
        "versions": versions(),
    }


def measure_seed(recipe, hp, seed, out, resume, own, histories, first):
    """Trains and evaluates one model, saves it if its seed is the first; returns what `MEASURED` describes."""
    keras.backend.clear_session()
    data.shuffle.counters.clear()
    run = Run(out, seed, histories, resume)
    try:
        model = recipe.train(hp, seed, run.callbacks)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.rescue(out / "last-epoch.keras")) from None
    except callbacks.Diverged as error:
        raise errors.RecipeError(f"{error}; {run.rescue(out / 'last-epoch.keras')}") from None
    except Exception as error:  # Keras raises no class of its own when weights can't be downloaded.
        if "URL fetch failure" in str(error):
            raise preparation.Unavailable(str(error)) from None
        integrity.blame_weights(error)
        raise
    metrics = {name: float(value) for name, value in recipe.evaluate(model, hp).items()}
    score = validation_score(recipe, model, hp, run.stages)
    elapsed = run.elapsed()
    if first:
        keep(out, recipe, model, hp, run.stages, own)
    return {"metrics": metrics, "score": score, "elapsed": elapsed, "histories": run.stages}


def keep(out, recipe, model, hp, histories, own):
    """Saves the model, its vocabulary, the learning curve, and the recipe's own plots and samples.

    model: what `train` returned: a Keras model; several by name, one of them "model"; or what its `save` takes.
    own: whether `out` is the recipe's default output directory, where all pictures are those of a run.
    """
    if hasattr(recipe, "save"):
        recipe.save(model, out)
    else:
        for name, each in (model if isinstance(model, dict) else {"model": model}).items():
            save_model(each, out / f"{name}.keras")
    if hasattr(recipe, "assets"):
        for name, text in recipe.assets(hp).items():
            files.write_text(out / name, text)
    shown = recipe.show(model, hp)
    history = histories.get(getattr(model["model"] if isinstance(model, dict) else model, "name", ""), {})
    if len(history.get("loss", [])) > 2:  # One or two points are no curve.
        shown = {"curve": plots.curve(history, recipe.PROMISE["monitor"]["metric"]), **shown}
    for name, each in shown.items():
        if isinstance(each, str):
            files.write_text(out / f"{name}.txt", each + "\n")
            print(f"\n{output.printable(each)}")
        else:
            with files.replacing(out / f"{name}.png") as unfinished:
                each.savefig(unfinished)
    for picture in out.glob("*.png") if own else ():
        if picture.stem not in shown:  # An earlier run, which may have drawn others, left it.
            picture.unlink()


def compare_variants(entry, recipe, values, seed, out, resume, own):
    """Trains the recipe's variants and adds their figures to the `results.json` of the run in `out`.

    Each is trained from `seed`, and from the run's other seeds too if its figure is within the spread of the run's.

    values: hyperparameters of the run in `out`, of which each variant changes some.
    resume: whether to continue the variant that was killed, and skip those that were finished before it.
    own: whether variants are compared with the record where `out` has no run.
    """
    if not getattr(recipe, "VARIANTS", {}):
        raise errors.RecipeError(f"{entry.name} has no variants")
    recorded = results.recorded(entry, out) or (entry.results if own else None)
    hp = settings.build(recipe.configure, values)
    if not recorded or recorded["hyperparameters"] != dict(hp.values) or seed not in recorded["seeds"]:
        raise errors.RecipeError(
            f"variants are compared with a finished run of the same seed, and {out} has none: "
            f"run {entry.name} without --variants first"
        )
    with locking.locked(out):
        # A run may have ended since.
        files.write_json(out / "results.json", results.recorded(entry, out) or recorded)
        for name in recipe.VARIANTS:
            compare_variant(entry, recipe, values, name, seed, out, resume)


def compare_variant(entry, recipe, values, name, seed, out, resume):
    """Trains one variant and adds its figure, as `compare_variants` describes."""
    changed, folder = recipe.VARIANTS[name], name.replace(" ", "_")
    sizes = {each: values[each] for each in ("epochs", "examples") if each in values}  # The user's, or those of TINY.

    def train(seeds, directory, before=None):
        """Trains from `seeds`; `before` is what was recorded of other seeds. Returns all results of `out`."""
        unfinished = resume and can_resume(directory)

        def record(measured, _):
            results.add_variant(out, name, changed, results.merge(before, measured) if before else measured)

        variant = execute(
            entry, recipe, {**values, **changed, **sizes}, seeds, directory, unfinished, own=True, record=record
        )
        results.report(variant, directory)
        return results.read(out / "results.json")

    print(f"\nVariant: {name} ({results.assignments(changed)})")
    recorded = results.read(out / "results.json")
    variant = recorded.get("variants", {}).get(name, {})
    if resume and variant.get("values") == changed and seed in variant["seeds"] and "metrics_by_seed" in variant:
        print(f"already compared before the interruption, seeds {variant['seeds']}")
    else:
        recorded = train([seed], out / "variants" / folder)
        variant = recorded["variants"][name]
    others = [each for each in recorded["seeds"] if each not in variant["seeds"]]
    if others and answers.differs(recorded, name, recorded["figure"]["name"]) is False:
        print(f"The difference is within the spread of the seeds, so seeds {others} are trained too.")
        train(others, out / "variants" / f"{folder}_more", variant)


def verify(entry, recipe):
    """Runs the recipe again with its recorded first seed; returns whether the figure is as recorded."""
    recorded = entry.results
    if not recorded:
        raise errors.RecipeError(f"{entry.name} has no recorded results to verify")
    if recorded["hyperparameters"] != dict(settings.build(recipe.configure, {}).values):
        raise errors.RecipeError(f"the recorded results of {entry.name} used different hyperparameters: run it again")
    out, seeds = entry.directory / "verify", recorded["seeds"][:1]
    same = {"recipe": entry.name, "hyperparameters": recorded["hyperparameters"], "seeds": seeds}
    try:
        unfinished = results.read_json(out / "backup" / "identity.json", results.RUN) == same
        again = execute(entry, recipe, {}, seeds, out, resume=unfinished, own=True)
    except errors.Damaged:
        if not (out / "backup").exists():
            raise  # What is damaged is no backup.
        print("What an earlier verification left is damaged; this one starts from the beginning.")
        again = execute(entry, recipe, {}, seeds, out, own=True)
    margin = results.margin(recorded)
    found, mean = again["figure"]["mean"], recorded["figure"]["mean"]
    within = abs(found - mean) <= margin
    print(
        f"{entry.name}: {again['figure']['name']} {results.number(found)} is {'within' if within else 'OUTSIDE'} "
        f"{results.number(mean)} ± {results.number(margin)}"
    )
    return within
