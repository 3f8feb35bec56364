"""`python -m recipes`: lists the recipes, copies one, verifies its figure, updates the generated text."""

import importlib
import signal
import sys

from common import files
from common.cookbook import catalogue, command_line, copying, errors, output, pages, results


def list_recipes():
    """Prints every recipe with its description, data and measured result."""
    for entry in catalogue.entries():
        try:
            measured = results.result_line(entry.results) if entry.results else "not measured yet"
        except errors.Damaged as error:
            measured = error
        told = f"{entry.name}\n    {entry.sentence}\n    {', '.join(entry.promise['data'])}: {measured}"
        print(output.printable(told))


def verify(name):
    """Runs the recipe again; returns whether the figure is as recorded, within the margin of `results.margin`."""
    command_line.import_tensorflow_quietly()  # Only this command needs TensorFlow.
    from common.cookbook import runs

    return runs.verify(catalogue.entry(name), importlib.import_module(f"recipes.{name}"))


def write_tables():
    """Updates all generated text: the docstrings' Result and Answers, the chapter pages, the README."""
    for entry in catalogue.entries():
        catalogue.write_fields(entry)
    for chapter in pages.chapters():
        page = catalogue.ROOT / "recipes" / chapter / "README.md"
        files.write_text(page, pages.chapter_page(chapter))
    readme = catalogue.ROOT / "README.md"
    files.write_text(readme, pages.readme(readme.read_text(encoding="utf-8")))


def main(arguments=None):
    """Returns the exit status."""
    parser = command_line.Parser(
        prog="python -m recipes",
        description="Without a command, lists the recipes. `python -m recipes.CHAPTER.NAME --help` describes one.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    copy = commands.add_parser("copy", help="write a recipe as one file that needs nothing from this repository")
    copy.add_argument("name", metavar="CHAPTER.NAME", help="the recipe, such as vision.lenet")
    copy.add_argument("file", metavar="FILE.py", help="the stand-alone file to write; it must not exist yet")
    again = commands.add_parser("verify", help="run a recipe again and compare with its recorded figure")
    again.add_argument("name", metavar="CHAPTER.NAME", help="the recipe, such as vision.lenet")
    commands.add_parser("table", help="update the pages, the README's table, and the docstrings' results and answers")
    options = parser.parse_args(arguments)
    output.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a verification as Ctrl-C does.
    try:
        if options.command == "copy":
            print(copying.copy(catalogue.entry(options.name), options.file))
        elif options.command == "verify":
            return 0 if verify(options.name) else 1
        elif options.command == "table":
            write_tables()
        else:
            list_recipes()
    except BrokenPipeError:  # `python -m recipes | head` closes the pipe early.
        return 1
    except KeyboardInterrupt as interrupt:
        print(
            "; ".join(["python -m recipes: stopped", *interrupt.args, "rerun the same command to continue"]),
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        if error.errno not in errors.FULL:
            raise
        print(f"python -m recipes: {errors.full_disk(error, 'rerun this')}", file=sys.stderr)
        return 2
    except errors.RecipeError as error:
        print(f"python -m recipes: {output.printable(error)}", file=sys.stderr)
        return 2
    finally:
        output.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
