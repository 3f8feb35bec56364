"""Runs a recipe from its command line and keeps what the run leaves behind."""

import argparse
import csv
import errno
import importlib
import io
import os
import pathlib
import platform
import shutil
import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from common import catalogue, errors, files, plots, search, settings, training


def clocks():
    """Seconds on the wall, and of all processor cores together, which on a shared machine are the ones to compare."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


class Run:
    """One training from one seed: hands out the callbacks of its fits and keeps their histories.

    out: the folder of the run's files.
    seed: the run's seed.
    histories: {seed: {stage: {metric: one value an epoch}}}, filled as the run goes on.
    resume: take up what a killed run left.
    """

    def __init__(self, out, seed, histories, resume):
        self.out, self.seed, self.histories, self.resume = out, seed, histories, resume
        self.backup = out / "backup" / f"seed-{seed}"
        self.stages = histories.setdefault(seed, {})
        self.latest = None
        before = training.elapsed_so_far(self.backup) if resume else {}
        self.start = {name: now - before.get(name, 0.0) for name, now in clocks().items()}

    def elapsed(self):
        """What the run has taken, {"seconds", "cpu_seconds"}, the time before an interruption included."""
        return {name: now - self.start[name] for name, now in clocks().items()}

    def write_history(self, epoch, logs):
        write_history(self.out / "history.csv", self.histories)

    def callbacks(self, stage, examples):
        """The callbacks of one fit: those of `training.callbacks`, and the files that the run leaves."""
        history = self.stages.setdefault(stage, {})
        self.latest = training.Resume(self.backup / f"{stage}.npz", history, self.elapsed, self.resume)
        epoch, throughput, *others = training.callbacks(stage, examples)
        table = keras.callbacks.LambdaCallback(on_epoch_end=self.write_history)
        board = keras.callbacks.TensorBoard(self.out / "logs" / f"seed-{self.seed}" / stage, write_graph=False)
        return [epoch, throughput, self.latest, table, board, *others]

    def rescue(self):
        """Saves the model as of the last finished epoch of the fit that was interrupted; tells so in words."""
        if self.latest is None or not self.latest.path.exists():
            return "no epoch was finished"
        epochs = self.latest.load()["epochs"]
        save_model(self.latest.model, self.out / "model.keras")
        return f"epoch {epochs} is kept in {self.out / 'model.keras'}"


def save_model(model, path):
    """Saves for inference: without optimizer, loss and metrics, so that a default `load_model` needs none of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.Model(model.inputs, model.outputs, name=model.name).save(path)


def write_history(path, histories):
    """Writes one row an epoch: seed, stage, epoch and every metric of any stage.

    histories: {seed: {stage: {metric: one value an epoch}}}.
    """
    metrics = sorted({metric for stages in histories.values() for history in stages.values() for metric in history})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["seed", "stage", "epoch", *metrics])
    for seed, stages in histories.items():
        for stage, history in stages.items():
            for epoch in range(max(map(len, history.values()), default=0)):
                values = [history[metric][epoch] if metric in history else "" for metric in metrics]
                writer.writerow([seed, stage, epoch + 1, *values])
    files.write_text(path, text.getvalue())


def machine():
    """What the figures were measured on."""
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
    """What a figure may depend on, beside the machine."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def describe_data(recipe):
    """Version and number of examples of every split that the recipe names, by data set."""
    described = {}
    for name in recipe.PROMISE["data"]:
        info = tfds.builder(name).info
        splits = {split: info.splits[part].num_examples for split, part in recipe.SPLITS.items()}
        described[name] = {"version": str(info.version), "splits": splits}
    return described


def throughput(histories):
    """Examples per second of every fit, by its median epoch."""
    return {stage: statistics.median(history["examples_per_second"]) for stage, history in histories.items() if history}


def claim(out, entry, identity, resume, own):
    """Makes `out` ready for a run, or refuses.

    identity: what must be the same for a run to be resumed: recipe, hyperparameters, seeds.
    own: whether `out` is the recipe's own folder, where results of other defaults may be replaced.

    Raises:
        errors.RecipeError: the folder is another recipe's or another setting's, or there is nothing to resume.
    """
    recorded = catalogue.read_json(out / "results.json")
    if recorded and recorded["recipe"] != entry.name:
        raise errors.RecipeError(f"{out} holds results of {recorded['recipe']}: choose another --out")
    if recorded and not own and recorded["hyperparameters"] != identity["hyperparameters"]:
        raise errors.RecipeError(f"{out} holds results of other hyperparameters: choose another --out")
    backup = out / "backup"
    started = catalogue.read_json(backup / "run.json")
    if resume and not started:
        raise errors.RecipeError(f"nothing to resume in {out}: start without --resume")
    if resume:
        for key, value in identity.items():
            if started[key] != value:
                raise errors.RecipeError(f"{out} holds a run of {difference(key, started[key], value)}")
        return
    if started and started["recipe"] != entry.name:
        raise errors.RecipeError(f"{out} holds an unfinished run of {started['recipe']}: choose another --out")
    if started:
        previous = out / "backup-previous"
        shutil.rmtree(previous, ignore_errors=True)
        backup.rename(previous)
        print(f"An unfinished run was moved to {previous}; --resume would have continued it.")
    files.write_json(backup / "run.json", identity)


def difference(key, started, given):
    """Tells in words why a run can't be resumed."""
    if key != "hyperparameters":
        return f"{key} {started}, not {given}: give the same, or another --out"
    changed = [name for name in given if started.get(name) != given[name]]
    return "; ".join(f"{name}={started.get(name)}, not {given[name]}" for name in changed) + ": give the same --set"


def execute(entry, recipe, values, seeds, out, resume=False, own=False):
    """Trains, evaluates and keeps: one run per seed, the first seed's model and pictures.

    Returns:
        The results, which `run.json` holds from then on.
    """
    hp = settings.build(recipe.configure, values)
    promise = recipe.PROMISE
    identity = {"recipe": entry.name, "hyperparameters": dict(hp.values), "seeds": seeds}
    claim(out, entry, identity, resume, own)
    histories, measured, elapsed = {}, [], []
    for seed in seeds:
        run = Run(out, seed, histories, resume)
        keras.backend.clear_session()
        try:
            model = recipe.train(hp, seed, run.callbacks)
        except KeyboardInterrupt:
            raise errors.RecipeError(f"stopped; {run.rescue()}; --resume goes on") from None
        except training.Diverged as error:
            raise errors.RecipeError(f"{error}; {run.rescue()}") from None
        measured.append({name: float(value) for name, value in recipe.evaluate(model, hp).items()})
        elapsed.append(run.elapsed())
        name = promise["figure"]["metric"]
        print(
            f"Seed {seed}: {name.replace('_', ' ')} {catalogue.number(measured[-1][name])}, "
            f"{elapsed[-1]['seconds']:.0f} seconds, {elapsed[-1]['cpu_seconds']:.0f} of CPU"
        )
        if seed == seeds[0]:
            keep(out, recipe, model, hp, run.stages)
    figure = [metrics[promise["figure"]["metric"]] for metrics in measured]
    results = {
        "recipe": entry.name,
        "figure": {
            "name": promise["figure"]["metric"],
            "better": promise["figure"]["better"],
            "mean": statistics.fmean(figure),
            "sd": statistics.stdev(figure) if len(figure) > 1 else 0.0,
            "values": figure,
        },
        "metrics": {name: statistics.fmean(metrics[name] for metrics in measured) for name in measured[0]},
        "baseline": {
            "name": promise["baseline"]["name"],
            "value": statistics.fmean(metrics[promise["baseline"]["metric"]] for metrics in measured),
        },
        "anchor": promise["anchor"],
        "seeds": seeds,
        **{name: statistics.fmean(run[name] for run in elapsed) for name in elapsed[0]},
        "score": {
            "name": promise["monitor"]["metric"],
            "values": [search.score(stages, promise["monitor"]) for stages in histories.values()],
        },
        "examples_per_second": throughput(histories[seeds[0]]),
        "hyperparameters": dict(hp.values),
        "data": describe_data(recipe),
        "machine": machine(),
        "versions": versions(),
    }
    files.write_json(out / "run.json", results)
    shutil.rmtree(out / "backup")
    return results


def keep(out, recipe, model, hp, histories):
    """Saves model, vocabulary, learning curve, and what the recipe shows of itself.

    model: what `train` returned: a model, or several by name, of which the first becomes `model.keras`.
    """
    first, *others = model.items() if isinstance(model, dict) else [("model", model)]
    save_model(first[1], out / "model.keras")
    for name, other in others:
        save_model(other, out / f"{name}.keras")
    if hasattr(recipe, "assets"):
        for name, text in recipe.assets(hp).items():
            files.write_text(out / name, text)
    plots.save(plots.curve(histories, recipe.PROMISE["monitor"]["metric"]), out / "curve.png")
    for name, shown in recipe.show(model, hp).items():
        if isinstance(shown, str):
            files.write_text(out / f"{name}.txt", shown + "\n")
            print(f"\n{shown}")
        else:
            plots.save(shown, out / f"{name}.png")


def report(results, out):
    """Tells the figure beside baseline and anchor."""
    figure, anchor = results["figure"], results["anchor"]
    compared = results["metrics"][anchor.get("metric", figure["name"])]
    passed = compared > anchor["value"] if figure["better"] == "higher" else compared < anchor["value"]
    name = figure["name"].replace("_", " ")
    rows = [
        (name, catalogue.spread(figure), f"{figure['better']} is better, on test"),
        ("baseline", catalogue.number(results["baseline"]["value"]), results["baseline"]["name"]),
        (
            "anchor",
            catalogue.number(anchor["value"]),
            f"{catalogue.anchor(results)}: {'passed' if passed else 'not reached'}",
        ),
    ]
    rows += [(f"  {key.replace('_', ' ')}", catalogue.number(value), "") for key, value in results["metrics"].items()]
    width = max(len(row[0]) for row in rows)
    print("\n" + "\n".join(f"{label:{width}}  {value:>18}  {note}".rstrip() for label, value, note in rows))
    print(f"{results['seconds']:.0f} seconds a run; files in {out}")


def record(results, out):
    """Makes `run.json` the recorded `results.json`, unless that has more seeds with the same hyperparameters."""
    recorded = catalogue.read_json(out / "results.json")
    keep_record = (
        recorded
        and recorded["hyperparameters"] == results["hyperparameters"]
        and len(recorded["seeds"]) > len(results["seeds"])
    )
    if keep_record:
        print(f"The recorded figure is {catalogue.spread(recorded['figure'])}; this run's results are in run.json.")
    else:
        os.replace(out / "run.json", out / "results.json")


def compare_variants(entry, recipe, seed, out, resume):
    """Trains the recipe's variants and adds their figures to `results.json`."""
    results = catalogue.read_json(out / "results.json")
    if not results:
        raise errors.RecipeError(
            f"variants are compared with a finished run: run {entry.name} without --variants first"
        )
    if not recipe.VARIANTS:
        raise errors.RecipeError(f"{entry.name} has no variants")
    results.setdefault("variants", {})
    for name, values in recipe.VARIANTS.items():
        print(f"\nVariant: {name} ({catalogue.assignments(values)})")
        directory = out / "variants" / name.replace(" ", "_")
        variant = execute(
            entry, recipe, values, [seed], directory, resume and (directory / "backup").exists(), own=True
        )
        report(variant, directory)
        chosen = ("metrics", "seconds", "cpu_seconds", "examples_per_second", "seeds")
        results["variants"][name] = {"values": values, **{key: variant[key] for key in chosen}}
        files.write_json(out / "results.json", results)


def verify(entry):
    """Runs the recipe again with its recorded first seed; returns whether the figure is as recorded.

    The tolerance is three standard deviations of the recorded seeds, or the recipe's own where that is wider.
    """
    recorded = entry.results
    if not recorded:
        raise errors.RecipeError(f"{entry.name} has no recorded results to verify")
    recipe = importlib.import_module(f"recipes.{entry.name}")
    if recorded["hyperparameters"] != dict(settings.build(recipe.configure, {}).values):
        raise errors.RecipeError(f"the recorded results of {entry.name} are of other hyperparameters: run it anew")
    results = execute(entry, recipe, {}, recorded["seeds"][:1], entry.directory / "verify", own=True)
    tolerance = max(3 * recorded["figure"]["sd"], recipe.PROMISE.get("tolerance", 0.0))
    found, mean = results["figure"]["mean"], recorded["figure"]["mean"]
    within = abs(found - mean) <= tolerance
    print(
        f"{entry.name}: {results['figure']['name']} {catalogue.number(found)} is {'within' if within else 'OUTSIDE'} "
        f"{catalogue.number(mean)} ± {catalogue.number(tolerance)}"
    )
    return within


def parser(entry, recipe):
    """The command line of one recipe."""
    parser = argparse.ArgumentParser(
        prog=f"python -m recipes.{entry.name}",
        description=entry.sentence,
        epilog=f"hyperparameters, their defaults and what --set takes:\n{settings.listing(recipe.configure)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--set", nargs="+", action="extend", default=[], metavar="name=value", help="change hyperparameters")
    add("--seed", type=int, default=0, help="the (first) seed, 0 by default")
    add("--seeds", type=int, default=1, metavar="N", help="run N seeds and tell mean and standard deviation")
    add("--tiny", action="store_true", help=f"a few examples, in seconds: {catalogue.assignments(recipe.TINY)}")
    add("--resume", action="store_true", help="go on with a run that was interrupted")
    add("--variants", action="store_true", help="after a run: train the recipe's variants and compare")
    add("--search", type=int, metavar="N", help="search the hyperparameters over N trials with KerasTuner")
    add("--tuner", choices=list(search.ORACLES), default="random", help="how to search, random by default")
    add("--out", type=pathlib.Path, metavar="DIR", help="where the files go")
    return parser


def run(name, arguments=None):
    """The command line of the recipe module `name` ("recipes.vision.lenet"); exits with status 2 on a mistake."""
    entry = catalogue.entry(name.removeprefix("recipes."))
    recipe = importlib.import_module(name)
    # Many fits in one run are no mistake, and TensorFlow warns that each is traced anew.
    tf.get_logger().setLevel("ERROR")
    options = parser(entry, recipe).parse_args(arguments)
    try:
        dispatch(entry, recipe, options)
    except errors.RecipeError as error:
        sys.exit(f"{entry.name}: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"{entry.name}: the disk is full: make room, then go on with --resume ({error.filename or ''})")


def dispatch(entry, recipe, options):
    """Does what the command line asks for."""
    given = settings.parse(recipe.configure, options.set)
    values = {**(recipe.TINY if options.tiny else {}), **given}
    changed = "tiny" if options.tiny else catalogue.assignments(given).replace(" ", ",")
    out = options.out or entry.directory / changed
    own = options.out is None
    if options.search:
        search.search(entry, recipe, values, options, out / "search" / options.tuner)
    elif options.variants:
        compare_variants(entry, recipe, options.seed, out, options.resume)
    else:
        seeds = list(range(options.seed, options.seed + options.seeds))
        results = execute(entry, recipe, values, seeds, out, options.resume, own)
        report(results, out)
        record(results, out)
