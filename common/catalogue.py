"""What is known of every recipe without importing it: docstring, promise, results. No TensorFlow here."""

import ast
import dataclasses
import functools
import json
import pathlib
import re

from common import errors

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIELDS = ("Result", "Baseline", "Anchor", "Paper", "Answers")


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
        found = re.findall(r"^(\w+) {2,}(.+(?:\n {10}.+)*)", self.docstring, re.MULTILINE)
        return {label: re.sub(r"\s+", " ", text) for label, text in found}

    @property
    def promise(self):
        return self.constant("PROMISE")

    def constant(self, name):
        """A module-level literal of the recipe."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and node.targets[0].id == name:
                return ast.literal_eval(node.value)
        raise errors.RecipeError(f"{self.path} assigns no literal to {name}")

    @property
    def directory(self):
        """Where a run leaves its files."""
        return ROOT / "saved_models" / pathlib.Path(*self.name.split("."))

    @property
    def results(self):
        """The recorded results, None before the first full run."""
        return read_json(self.directory / "results.json")


def read_json(path):
    """What a JSON file holds, None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def entries():
    """All recipes, by chapter and name."""
    paths = sorted((ROOT / "recipes").glob("*/*.py"))
    return [Entry(f"{path.parent.name}.{path.stem}", path) for path in paths if not path.stem.startswith("_")]


def entry(name):
    """The recipe CHAPTER.NAME.

    Raises:
        errors.RecipeError: there is none; names the known ones.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise errors.RecipeError(f"no recipe {name!r}; known: {', '.join(known)}")
    return known[name]


def assignments(values):
    """Hyperparameters as `--set` takes them: "units=64 learning_rate=0.001"."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
    )


def number(value):
    """A figure as text: five significant digits."""
    return f"{value:.5g}"


def spread(figure):
    """A figure over its seeds: "0.9934 ± 0.0003", without the spread where one seed shows none."""
    if len(figure["values"]) == 1:
        return number(figure["mean"])
    decimals = max(0, 4 - len(str(int(abs(figure["mean"]))) if abs(figure["mean"]) >= 1 else ""))
    return f"{figure['mean']:.{decimals}f} ± {figure['sd']:.{decimals}f}"


def anchor(promise_or_results):
    """The anchor's source, and which metric it is compared with where that is not the figure itself."""
    told = promise_or_results["anchor"]
    return told["source"] + (f", {told['metric'].replace('_', ' ')}" if "metric" in told else "")


def result_line(results):
    """The docstring's Result, from a results file."""
    figure, seeds = results["figure"], len(results["seeds"])
    over = f"over {seeds} seeds" if seeds > 1 else "with one seed"
    cores = results["machine"]["cores"]
    cpu = f" ({results['cpu_seconds'] / 60:.1f} of CPU)" if "cpu_seconds" in results else ""
    return (
        f"{figure['name'].replace('_', ' ')} {spread(figure)} {over}, "
        f"{results['seconds'] / 60:.1f} minutes a run{cpu} on {cores} core{'s' if cores > 1 else ''}"
    )


def write_result(entry):
    """Brings the docstring's Result up to date with the results file."""
    text = entry.path.read_text(encoding="utf-8")
    line = result_line(entry.results) if entry.results else "not measured yet"
    updated, count = re.subn(r"^Result {4}.*(?:\n {10}.*)*$", f"Result    {line}", text, count=1, flags=re.MULTILINE)
    if not count:
        raise errors.RecipeError(f"{entry.path}: the docstring has no line that begins with 'Result    '")
    if updated != text:
        entry.path.write_text(updated, encoding="utf-8")


def table():
    """All results as a Markdown table."""
    rows = ["| recipe | data | figure | measured | baseline | anchor | minutes |", "|---|---|---|---|---|---|---|"]
    for entry in entries():
        promise, results = entry.promise, entry.results
        link = f"[`{entry.name}`](recipes/{entry.name.replace('.', '/')}.py)"
        published = f"{number(promise['anchor']['value'])} ({anchor(promise)}"
        if results and "metric" in promise["anchor"]:
            published += f": {number(results['metrics'][promise['anchor']['metric']])} here"
        figure = f"{promise['figure']['metric'].replace('_', ' ')}, {promise['figure']['better']} is better"
        measured = baseline = duration = "not yet"
        if results:
            count = len(results["seeds"])
            measured = f"**{spread(results['figure'])}** ({count} seed{'s' if count > 1 else ''})"
            baseline = f"{number(results['baseline']['value'])} ({results['baseline']['name']})"
            cpu = f" ({results['cpu_seconds'] / 60:.1f})" if "cpu_seconds" in results else ""
            duration = f"{results['seconds'] / 60:.1f}{cpu}"
        rows.append(
            f"| {link} | {', '.join(promise['data'])} | {figure} | {measured} | {baseline} | {published}) | {duration} |"
        )
    return "\n".join([*rows, "", *variants()])


def variants():
    """The recipes' own comparisons as Markdown lines: the figure and the speed, as it is and changed, same seed."""
    lines = []
    for entry in entries():
        results = entry.results or {}
        for name, variant in results.get("variants", {}).items():
            metric = results["figure"]["name"]
            own = results["figure"]["values"][results["seeds"].index(variant["seeds"][0])]
            speeds = [sum(each["examples_per_second"].values()) for each in (results, variant)]
            lines.append(
                f"- `{entry.name}`, {name} (`--set {assignments(variant['values'])}`): {metric.replace('_', ' ')} "
                f"{number(variant['metrics'][metric])} instead of {number(own)}, at {speeds[1] / speeds[0]:.2f} times "
                "the examples per second."
            )
    return lines


BEGIN, END = "<!-- table: python -m recipes table -->", "<!-- end of table -->"


def readme_with_table(text):
    """The README's text with today's table between its two marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"
