"""The command line of a recipe."""

import argparse
import errno
import hashlib
import importlib
import pathlib
import sys

import tensorflow as tf

from common.cookbook import catalogue, errors, results, runs, search, settings


def positive(text):
    """The number that `--seeds` and `--search` take."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parser(entry, recipe):
    """The command line of one recipe."""
    parser = argparse.ArgumentParser(
        prog=f"python -m recipes.{entry.name}",
        description=entry.sentence,
        epilog=f"hyperparameters, their defaults and what --set takes:\n{settings.listing(recipe.configure)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--set", nargs="+", action="extend", default=[], metavar="name=value", help="hyperparameters to change")
    add("--seed", type=int, default=0, help="the (first) seed, 0 by default")
    add("--seeds", type=positive, default=1, metavar="N", help="run N seeds and report mean and standard deviation")
    add("--tiny", action="store_true", help=f"run on a few examples, in seconds: {results.assignments(recipe.TINY)}")
    add("--resume", action="store_true", help="resume a run that was interrupted")
    add("--variants", action="store_true", help="train the recipe's variants and compare them with a finished run")
    add("--search", type=positive, metavar="N", help="search the hyperparameters over N trials with KerasTuner")
    add("--tuner", choices=list(search.ORACLES), default="random", help="search strategy, random by default")
    add("--out", type=pathlib.Path, metavar="DIR", help="output directory")
    return parser


def main(name, arguments=None):
    """Runs the recipe module `name` ("recipes.vision.lenet") as its command line says; reports mistakes in a line."""
    entry = catalogue.entry(name.removeprefix("recipes."))
    # The file runs as `__main__`; what it saves must name its classes as an import of it would.
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
        sys.exit(f"{entry.name}: the disk is full: make room, then continue with --resume ({error.filename or ''})")


def folder(values):
    """The name of the folder of a run with these hyperparameters; file systems take no more than 255 bytes."""
    name = results.assignments(values).replace(" ", ",")
    return name if len(name) < 200 else f"{name[:190]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def dispatch(entry, recipe, options):
    """Does what the command line asks for."""
    given = settings.parse(recipe.configure, options.set)
    values = {**(recipe.TINY if options.tiny else {}), **given}
    out = options.out or entry.directory / ("tiny" if options.tiny else folder(given))
    own = options.out is None
    if options.search:
        search.search(entry, recipe, values, options, out / "search" / options.tuner)
    elif options.variants:
        runs.compare_variants(entry, recipe, values, options.seed, out, options.resume)
    else:
        seeds = list(range(options.seed, options.seed + options.seeds))
        measured = runs.execute(entry, recipe, values, seeds, out, options.resume, own)
        results.report(measured, out)
        results.record(measured, out)
