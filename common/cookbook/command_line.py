"""The command line of a recipe. TensorFlow is imported only by the commands that need it, which `--help` does not."""

import argparse
import contextlib
import hashlib
import importlib
import os
import pathlib
import shlex
import signal
import sys

from common.cookbook import catalogue, errors, output, results

TUNERS = ("random", "bayesian", "hyperband")
LARGEST = 2**31 - 1  # Of the numbers that TensorFlow, NumPy and KerasTuner all take as a seed.
# Pairs of options of which one would be ignored, and what to do instead.
APART = [
    ("--search", "--variants", "give one of them"),
    ("--search", "--try", "give one of them"),
    ("--variants", "--try", "give one of them"),
    ("--search", "--resume", "the same --search, given again, resumes by itself"),
    ("--search", "--seeds", "every trial is trained from the one --seed"),
    ("--variants", "--seeds", "variants are trained from the seeds of the run that they are compared with"),
    ("--try", "--resume", "--try trains nothing"),
    ("--try", "--seeds", "--try trains nothing"),
    *[("--record", other, "--record trains nothing") for other in ("--search", "--variants", "--resume", "--seeds")],
    ("--record", "--try", "give one of them"),
    ("--record", "--out", "only the run in the recipe's own directory becomes the record"),
]


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {errors.one_line(message)}; see --help\n")


def whole(low, high=LARGEST):
    """A parser of whole numbers from `low` to `high`."""

    def parse(text):
        with contextlib.suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")

    return parse


def directory(text):
    """Parses the path that `--out` takes; an empty one, as of a shell variable that is not set, would be `.`."""
    if not text:
        raise argparse.ArgumentTypeError("the name of the directory is empty")
    return pathlib.Path(text)


def parser(entry):
    """The argument parser of one recipe."""
    parser = Parser(
        prog=f"python -m recipes.{entry.name}",
        description=entry.sentence,
        epilog=f"hyperparameters, their defaults, and the values that --set allows:\n{entry.hyperparameters}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    tiny = results.assignments(entry.constant("TINY"))
    add("--set", nargs="+", action="extend", default=[], metavar="name=value", help="change hyperparameters; see below")
    add("--seed", type=whole(0), default=0, help="the (first) random seed, 0 by default")
    add(
        "--seeds",
        type=whole(1, 1000),
        default=1,
        metavar="N",
        help="train from N seeds; report mean and standard deviation",
    )
    add("--tiny", action="store_true", help=f"run on a few examples, in seconds: {tiny}")
    add("--resume", action="store_true", help="resume a run that was interrupted")
    if "predict" in {getattr(node, "name", None) for node in entry.tree.body}:
        add(
            "--try",
            nargs="*",
            metavar="INPUT",
            help="apply the trained model to each INPUT; without any, interactively",
        )
    add("--variants", action="store_true", help="train the recipe's variants and compare them with a finished run")
    add("--search", type=whole(1), metavar="N", help="search the hyperparameters over N trials with KerasTuner")
    add("--tuner", choices=TUNERS, default="random", help="search strategy, random by default")
    add("--record", action="store_true", help="make the finished run the record, which is part of the repository")
    add("--out", type=directory, metavar="DIR", help="output directory")
    return parser


def parse(entry, arguments):
    """The options on a recipe's command line; a mistake ends the process with one line."""
    syntax = parser(entry)
    options = syntax.parse_args(arguments)
    given = {f"--{name}" for name, value in vars(options).items() if value != syntax.get_default(name)}
    for one, other, remedy in APART:
        if {one, other} <= given:
            syntax.error(f"{one} and {other} don't go together: {remedy}")
    if "--tuner" in given and "--search" not in given:
        syntax.error("--tuner does nothing without --search: give both")
    return options


def prepare(command):
    """Does what `python -m recipes.CHAPTER.NAME` needs before Python imports the recipe.

    Neither `--help` nor a mistake has to wait for TensorFlow, which is then imported without its start-up messages.

    command: the words of the command line, `sys.orig_argv`.
    """
    module, *arguments = command[command.index("-m") + 1 :] if "-m" in command[:-1] else [""]
    known = {f"recipes.{entry.name}": entry for entry in catalogue.entries()}
    if module in known:
        parse(known[module], arguments)
        sys.excepthook = report
        import_tensorflow_quietly()


def report(kind, error, traceback):
    """Reports an exception as Python does, but Ctrl-C while modules are still being imported in one line."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped before anything was done", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def import_tensorflow_quietly():
    """Imports TensorFlow with standard error redirected: no setting silences what it logs during the import."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        importlib.import_module("tensorflow")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def main(name, arguments=None):
    """Runs the recipe module `name` ("recipes.vision.lenet") as its command line says; reports errors in one line."""
    import tensorflow as tf

    output.prepare()
    entry = catalogue.entry(name.removeprefix("recipes."))
    # The file runs as `__main__`; what it saves must refer to its classes by the name of the imported module.
    recipe = importlib.import_module(name)
    # Several fits in one run are intended, but TensorFlow would warn that each is traced again.
    tf.get_logger().setLevel("ERROR")
    options = parse(entry, arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a run as Ctrl-C does.
    resumes = not (options.search or options.record or vars(options).get("try") is not None)
    again = "rerun the command with --resume" if resumes else "rerun the command to continue"
    try:
        dispatch(entry, recipe, options)
        sys.stdout.flush()
    except errors.RecipeError as error:
        sys.exit(f"{entry.name}: {output.printable(error)}")
    except KeyboardInterrupt as interrupt:
        sys.exit(f"{entry.name}: {'; '.join(['stopped', *interrupt.args, again])}")
    except BrokenPipeError:
        sys.exit(f"{entry.name}: stopped, since nothing reads the output; {again}")
    except OSError as error:
        if error.errno not in errors.FULL:
            raise
        sys.exit(f"{entry.name}: {errors.full_disk(error, again)}")
    finally:
        output.finish()


def folder(values):
    """The directory name of a run with these hyperparameters; file systems allow at most 255 bytes."""
    name = results.assignments(values).replace(" ", ",")
    return name if len(name) < 200 else f"{name[:190]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def dispatch(entry, recipe, options):
    """Does what the command line asks for."""
    from common.cookbook import locking, recording, runs, search, settings, trying, workers

    given = settings.parse(recipe.configure, options.set)
    values = {**(recipe.TINY if options.tiny else {}), **given}
    out = options.out or entry.directory / ("tiny" if options.tiny else folder(given) if given else "run")
    own, inputs = options.out is None, vars(options).get("try")
    with errors.about(out, "choose another --out"):
        if options.search:
            directory = out / "search" / options.tuner
            # Workers share the directory of their chief, which holds it.
            with contextlib.nullcontext() if workers.role() == "worker" else locking.locked(directory):
                search.search(entry, recipe, values, options, directory)
        elif options.variants:
            runs.compare_variants(entry, recipe, values, options.seed, out, options.resume, own)
        elif options.record:
            print(recording.record(entry, recipe, out))
        elif inputs is not None:
            recorded = own and not values and not (out / "model.keras").exists()
            directory = entry.directory if recorded else out
            trying.try_model(entry, recipe, directory, inputs, run_command(entry, options))
        else:
            seeds = list(range(options.seed, options.seed + options.seeds))
            measured = runs.execute(entry, recipe, values, seeds, out, options.resume, own)
            results.report(measured, out)
            print(what_next(entry, options, out, measured))


def run_command(entry, options):
    """The command that trains with these options, as one types it."""
    same = ["--tiny"] * options.tiny + (["--set", *options.set] if options.set else [])
    same += ["--seed", str(options.seed)] if options.seed else []
    same += ["--out", str(options.out)] if options.out else []
    return shlex.join(["python", "-m", f"recipes.{entry.name}", *same])


def what_next(entry, options, out, measured):
    """The commands that a finished run suggests."""
    command = run_command(entry, options)
    tiny = "This was a tiny run: it shows that everything works, and its figures mean nothing."
    lines = [f"\n{tiny}" if options.tiny else "", "Next:"]
    recorded = None
    with contextlib.suppress(errors.Damaged):
        recorded = entry.results
    if out == entry.directory / "run" and not results.outnumbers(recorded, measured):
        lines.insert(
            1, f"The record in {entry.directory} is unchanged; `{command} --record` makes this run the record."
        )
    if hasattr(options, "try"):
        lines.append(f"  {command} --try{entry.example}")
    if entry.constant("VARIANTS", {}):
        lines.append(f"  {command} --variants")
    lines.append(f"  tensorboard --logdir {out / 'logs'}")
    lines.append(f"  python -m recipes copy {entry.name} my_{entry.name.split('.')[1]}.py")
    return "\n".join(lines)
