"""What is known about every recipe without importing it: docstring, promise, results. No TensorFlow here."""

import ast
import dataclasses
import functools
import pathlib
import re

from common.cookbook import errors, results

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

    def constant(self, name, *default):
        """A module-level literal of the recipe; `default` where it has none."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
                return ast.literal_eval(node.value)
        if default:
            return default[0]
        raise errors.RecipeError(f"{self.path} assigns no literal to {name}")

    @property
    def pinned(self):
        """The hyperparameters that a search leaves as they are: they change its cost, its task or its score's scale."""
        hyperparameters = set(re.findall(r'hp\.[A-Z]\w+\("(\w+)"', ast.unparse(self.tree).replace("'", '"')))
        return [name for name in ("epochs", "examples", *self.constant("PINNED", ())) if name in hyperparameters]

    @property
    def directory(self):
        """Where a run leaves its files."""
        return ROOT / "saved_models" / pathlib.Path(*self.name.split("."))

    @property
    def results(self):
        """The recorded results, None before the first full run."""
        return results.read_json(self.directory / "results.json")


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


def write_result(entry):
    """Brings the docstring's Result up to date with the results file."""
    text = entry.path.read_text(encoding="utf-8")
    line = results.result_line(entry.results) if entry.results else "not measured yet"
    updated, count = re.subn(r"^Result {4}.*(?:\n {10}.*)*$", f"Result    {line}", text, count=1, flags=re.MULTILINE)
    if not count:
        raise errors.RecipeError(f"{entry.path}: the docstring has no line that begins with 'Result    '")
    if updated != text:
        entry.path.write_text(updated, encoding="utf-8")


def table():
    """All results as a Markdown table."""
    rows = ["| recipe | data | figure | measured | baseline | published | minutes |", "|---|---|---|---|---|---|---|"]
    for entry in entries():
        promise, recorded = entry.promise, entry.results
        link = f"[`{entry.name}`](recipes/{entry.name.replace('.', '/')}.py)"
        published = f"{results.number(promise['published']['value'])} ({results.published(promise)}"
        if recorded and "metric" in promise["published"]:
            published += f": {results.number(recorded['metrics'][promise['published']['metric']])} here"
        figure = f"{promise['figure']['metric'].replace('_', ' ')}, {promise['figure']['better']} is better"
        measured = baseline = duration = "not yet"
        if recorded:
            count = len(recorded["seeds"])
            measured = f"**{results.spread(recorded['figure'])}** ({count} seed{'s' if count > 1 else ''})"
            baseline = f"{results.number(recorded['baseline']['value'])} ({recorded['baseline']['name']})"
            cpu = f" ({recorded['cpu_seconds'] / 60:.1f})" if "cpu_seconds" in recorded else ""
            duration = f"{recorded['seconds'] / 60:.1f}{cpu}"
        rows.append(
            f"| {link} | {', '.join(promise['data'])} | {figure} | {measured} | {baseline} | {published}) | {duration} |"
        )
    return "\n".join([*rows, "", *variants()])


def variants():
    """The recipes' own comparisons as Markdown lines: the figure and the speed, as it is and changed, same seed."""
    lines = []
    for entry in entries():
        recorded = entry.results or {}
        for name, variant in recorded.get("variants", {}).items():
            metric = recorded["figure"]["name"]
            own = recorded["figure"]["values"][recorded["seeds"].index(variant["seeds"][0])]
            speeds = [sum(each["examples_per_second"].values()) for each in (recorded, variant)]
            # A loop of one's own, and what is no Keras model, count no examples.
            speed = f", at {speeds[1] / speeds[0]:.2f} times the examples per second" if all(speeds) else ""
            lines.append(
                f"- `{entry.name}`, {name} (`--set {results.assignments(variant['values'])}`): {metric.replace('_', ' ')} "
                f"{results.number(variant['metrics'][metric])} instead of {results.number(own)}{speed}."
            )
    return lines


BEGIN, END = "<!-- table: python -m recipes table -->", "<!-- end of table -->"


def readme_with_table(text):
    """The README's text with the current table between its two marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"
