"""What is known of every recipe without importing it: docstring, promise, answers, results. No TensorFlow here."""

import ast
import dataclasses
import functools
import pathlib
import re
import textwrap
import tomllib

from common.cookbook import answers, errors, results, settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIELDS = ("Result", "Baseline", "Published", "Paper", "Answers")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One recipe: `name` is CHAPTER.NAME, `path` its file."""

    name: str
    path: pathlib.Path

    @functools.cached_property
    def tree(self):
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def docstring(self):
        return ast.get_docstring(self.tree) or ""

    @property
    def sentence(self):
        return self.docstring.split("\n\n")[0].replace("\n", " ")

    @property
    def fields(self):
        """The docstring's labelled paragraphs, each as one line: {"Result": ..., "Baseline": ..., ...}."""
        found = re.findall(rf"^({'|'.join(FIELDS)}) +(.+(?:\n {{10}}.+)*)", self.docstring, re.MULTILINE)
        return {label: re.sub(r"\s+", " ", text) for label, text in found}

    @property
    def promise(self):
        return self.constant("PROMISE")

    @functools.cached_property
    def answers(self):
        """The recipe's table in its chapter's `answers.toml`: {question: answer with placeholders}."""
        path = self.path.with_name("answers.toml")
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))[self.path.stem]
        except (FileNotFoundError, KeyError):
            raise errors.RecipeError(f"{path} has no table [{self.path.stem}] of questions and answers") from None
        except tomllib.TOMLDecodeError as error:
            raise errors.RecipeError(f"{path} is not valid TOML: {error}") from error

    def constant(self, name, *default):
        """A module-level literal of the recipe; `default` if there is none."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
                return ast.literal_eval(node.value)
        if default:
            return default[0]
        raise errors.RecipeError(f"{self.path} must assign a literal to {name}")

    @property
    def pinned(self):
        """The hyperparameters that a search keeps fixed: they change its cost, its task or the scale of its score."""
        hyperparameters = {each.name for each in settings.declarations(self.tree)}
        return [name for name in ("epochs", "examples", *self.constant("PINNED", ())) if name in hyperparameters]

    @property
    def hyperparameters(self):
        """Every hyperparameter with its default, range and comment, as text."""
        return settings.listing(self.tree, self.path.read_text(encoding="utf-8"))

    @property
    def example(self):
        """The docstring's example after `--try`, or that in `predict`'s, with a space before it; "" if there is none."""
        found = re.search(rf"python -m recipes\.{self.name} --try(.*)", self.docstring)
        if found:
            return found[1]
        found = re.search(r"predict\(model, assets, \[(\".*\")\]\)", self.path.read_text(encoding="utf-8"))
        return f" {found[1]}" if found else ""

    def source(self, function):
        """The text of one of the recipe's functions."""
        node = next(each for each in self.tree.body if getattr(each, "name", None) == function)
        return ast.get_source_segment(self.path.read_text(encoding="utf-8"), node)

    @property
    def shows(self):
        """What the recipe's plots show, in a sentence."""
        node = next(each for each in self.tree.body if getattr(each, "name", None) == "show")
        return ast.get_docstring(node).split("\n\n")[0].replace("\n", " ")

    @property
    def directory(self):
        """The output directory of a run."""
        return ROOT / "saved_models" / pathlib.Path(*self.name.split("."))

    @property
    def results(self):
        """The recorded results, None before the first full run."""
        return results.read(self.directory / "results.json")


def entries():
    """All recipes, sorted by chapter and name."""
    paths = sorted((ROOT / "recipes").glob("*/*.py"))
    return [Entry(f"{path.parent.name}.{path.stem}", path) for path in paths if not path.stem.startswith("_")]


def entry(name):
    """The recipe CHAPTER.NAME.

    Raises:
        errors.RecipeError: there is no such recipe; the message lists the known ones.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise errors.RecipeError(f"no recipe {name!r}; known: {', '.join(known)}")
    return known[name]


def write_fields(entry):
    """Updates the docstring's Result and Answers from the results file."""
    recorded = entry.results
    answered = answers.fill(entry.answers, recorded).items()
    text = entry.path.read_text(encoding="utf-8")
    updated = with_field(text, "Result", [results.result_line(recorded) if recorded else answers.UNMEASURED])
    lines = [
        line
        for question, answer in answered
        for line in textwrap.wrap(f"{question} {answer}", 110, break_on_hyphens=False)
    ]
    updated = with_field(updated, "Answers", lines)
    if updated != text:
        entry.path.write_text(updated, encoding="utf-8")


def with_field(text, label, lines):
    """The recipe's text with `lines` as the docstring's paragraph of this label."""
    pattern = re.compile(rf"^{label} +\S.*(?:\n {{10}}.*)*$", re.MULTILINE)
    if not pattern.search(text):
        raise errors.RecipeError(f"the docstring has no line that begins with {label!r}: {text.splitlines()[0]}")
    return pattern.sub(lambda _: f"{label:10}" + f"\n{'':10}".join(lines), text, count=1)
