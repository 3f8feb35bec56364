"""The pages that GitHub shows: the README's table and one README per chapter, written from the results files."""

import ast
import os
import struct

from common.cookbook import answers, catalogue, results

GENERATED = "<!-- Written by `python -m recipes table`. -->"
HOW_MEASURED = """\
Every figure is measured on the test split by the recipe itself; ± is the standard deviation over its seeds, where
there are several. `results.json` beside each plot records seeds, hyperparameters, machine and package versions. Minutes
are wall-clock time per run on one or two shared cores, with the CPU time, summed over cores, in parentheses. The command
`python -m recipes verify CHAPTER.NAME` repeats a measurement."""
SHOWN = "recurrent.masking"  # The README shows its network.


def chapters():
    """{chapter: its recipes}, in alphabetical order."""
    found = {}
    for entry in catalogue.entries():
        found.setdefault(entry.name.split(".")[0], []).append(entry)
    return found


def title(chapter):
    """A chapter's name and what it is about, from the docstring of its package."""
    path = catalogue.ROOT / "recipes" / chapter / "__init__.py"
    name, _, about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).partition(": ")
    return name, about


MARKS = {"better": "✓", "equal": "≈", "worse": "✗"}


def compact(entry):
    """One recipe in the README's table: linked name, figure, published figure, marks for that and for the baseline."""
    recorded, name = entry.results, entry.name.split(".")[1]
    link = f"[{name}](recipes/{entry.name.split('.')[0]}/README.md#{name})"
    if not recorded:
        return f"{link} {answers.UNMEASURED}"
    goal = recorded["published"]
    compared = recorded["metrics"][goal["metric"]] if "metric" in goal else recorded["figure"]["mean"]
    metric = goal.get("metric", recorded["figure"]["name"]).replace("_", " ")
    shown = f"{compared:.{results.decimals(compared)}f}" if compared else "0"
    loses = " †" if results.against_baseline(recorded) == "worse" else ""
    mark = MARKS[results.against_published(recorded)]
    return f"{link} {metric} **{shown}** ({results.number(goal['value'])} {mark}){loses}"


def table():
    """Every recipe's figure as a Markdown table, one row per chapter."""
    rows = ["| chapter | recipe **measured** (published) |", "|---|---|"]
    for chapter, entries in chapters().items():
        rows.append(f"| [{title(chapter)[0]}](recipes/{chapter}/README.md) | {'<br>'.join(map(compact, entries))} |")
    return "\n".join(rows)


def network(name):
    """A recipe's `build_model`, as a Markdown block."""
    return f"```python\n{catalogue.entry(name).source('build_model')}\n```"


def between(text, name, content):
    """The README's text with `content` between the comments `<!-- NAME: ... -->` and `<!-- end of NAME -->`."""
    before, rest = text.split(f"<!-- {name}: ")
    how, rest = rest.split(" -->\n", 1)
    after = rest.split(f"<!-- end of {name} -->")[1]
    return f"{before}<!-- {name}: {how} -->\n{content}\n<!-- end of {name} -->{after}"


def readme(text):
    """The README's text with the current table and network."""
    return between(between(text, "table", table()), "network", network(SHOWN))


def minutes(run):
    """Wall-clock minutes, with the CPU time, summed over cores, in parentheses."""
    cpu = f" ({run['cpu_seconds'] / 60:.1f})" if "cpu_seconds" in run else ""
    return f"{run['seconds'] / 60:.1f}{cpu}"


def comparison(entry):
    """A recipe's figure beside baseline, published figure and variants, as Markdown rows."""
    promise, recorded = entry.promise, entry.results
    metric = promise["figure"]["metric"]
    over = f"{len(recorded['seeds'])} seeds" if len(recorded["seeds"]) > 1 else "1 seed"
    rows = [
        f"| | {metric.replace('_', ' ')}, {promise['figure']['better']} is better | minutes (CPU) |",
        "|---|---|---|",
        f"| **this recipe**, {over} | **{results.spread(recorded['figure'])}** | {minutes(recorded)} |",
    ]
    verdict = results.against_baseline(recorded)
    loses = "" if verdict == "better" else f" {MARKS[verdict]}{results.LOSES[verdict].replace(':', '')}"
    baseline = results.number(recorded["baseline"]["value"])
    rows.append(f"| baseline: {promise['baseline']['name']} | {baseline}{loses} | |")
    goal = recorded["published"]
    here = (
        f" (here {results.number(recorded['metrics'][goal['metric']])} {goal['metric'].replace('_', ' ')})"
        if "metric" in goal
        else ""
    )
    verdict = results.against_published(recorded)
    reached = f"{MARKS[verdict]} {results.REACHED[verdict]}"
    source = goal["source"] if goal["source"].startswith("the recipe's own") else f"published: {goal['source']}"
    rows.append(f"| {source}{here} | {results.number(goal['value'])} {reached} | |")
    for name, variant in recorded.get("variants", {}).items():
        found = answers.values(recorded, name, metric)
        figure = results.spread(results.summary(found))
        rows.append(
            f"| {name}: `--set {results.assignments(variant['values'])}`"
            f"{f', {len(found)} seeds' if len(found) > 1 else ''} | {figure} | {minutes(variant)} |"
        )
    return rows


def width(picture):
    """How much of a page's width a PNG takes: one that is taller than wide would fill the screen."""
    across, down = struct.unpack(">II", picture.read_bytes()[16:24])
    return "50%" if down > across else "100%"


def section(entry):
    """One recipe on its chapter's page."""
    name = entry.name.split(".")[1]
    lines = [f"## {name}", "", entry.sentence, ""]
    pictures = [path for path in sorted(entry.directory.glob("*.png")) if path.stem != "curve"]
    for picture in pictures:
        path = os.path.relpath(picture, entry.path.parent)
        shown = entry.shows if len(pictures) == 1 else f"{name}: {picture.stem.replace('_', ' ')}"
        lines += [f'<img src="{path}" width="{width(picture)}" alt="{shown}">', ""]
    lines += comparison(entry) if entry.results else [f"Its figure is {answers.UNMEASURED}."]
    lines += [""]
    for question, answer in answers.fill(entry.answers, entry.results).items():
        lines += [f"- **{question}** {answer}"]
    command = f"python -m recipes.{entry.name}"
    return [*lines, "", "```", command, "```", "", f"[Read the recipe]({name}.py)", ""]


def costs(entries):
    """The recipes that report what their networks cost, side by side, as Markdown; nothing if there is only one."""
    counted = [entry for entry in entries if "multiply_adds" in (entry.results or {"metrics": {}})["metrics"]]
    if len(counted) < 2:
        return []
    lines = [
        "## What the networks cost",
        "",
        "Multiply-adds are per image, in convolutions and dense layers only.",
    ]
    lines += [
        "",
        "| network | data | parameters | multiply-adds | minutes (CPU) | result |",
        "|---|---|---|---|---|---|",
    ]
    for entry in sorted(counted, key=lambda entry: entry.results["metrics"]["multiply_adds"]):
        metrics, name = entry.results["metrics"], entry.name.split(".")[1]
        lines.append(
            f"| [{name}](#{name}) | {', '.join(entry.promise['data'])} | {metrics['parameters'] / 1e6:.2f} million "
            f"| {metrics['multiply_adds'] / 1e6:.1f} million | {minutes(entry.results)} "
            f"| {results.spread(entry.results['figure'])} |"
        )
    return [*lines, ""]


def samples(entries):
    """The recipes that measure what their networks generate, side by side, as Markdown; nothing if there is only one."""
    measured = [entry for entry in entries if "coverage" in (entry.results or {"metrics": {}})["metrics"]]
    if len(measured) < 2:
        return []
    lines = [
        "## How good the samples are",
        "",
        "Distance is the Fréchet distance in the features of this book's LeNet-5 between 10,000 samples and the test",
        "images, all binarized; precision is the share of samples that lie among test images, coverage the share of test",
        "images that have samples near them, and rarest digit the share of the digit that is generated least often, at",
        "best one in ten.",
        "",
        "| model | distance | precision | coverage | rarest digit | minutes (CPU) |",
        "|---|---|---|---|---|---|",
    ]

    def row(name, metrics, prefix="", time=""):
        shares = (f"{metrics[prefix + each]:.1%}" for each in ("precision", "coverage", "rarest_digit"))
        return f"| {name} | {metrics[prefix + 'distance']:.2f} | {' | '.join(shares)} | {time} |"

    bounds = next(entry.results["metrics"] for entry in measured if "mixture_coverage" in entry.results["metrics"])
    lines += [
        row("training images", bounds, "training_"),
        row("a mixture of Gaussians of the pixels", bounds, "mixture_"),
    ]
    for entry in sorted(measured, key=lambda entry: entry.results["metrics"]["distance"]):
        name = entry.name.split(".")[1]
        lines.append(row(f"[{name}](#{name})", entry.results["metrics"], time=minutes(entry.results)))
    lines.append(f"| a Gaussian fitted to the pixels | {bounds['gaussian_distance']:.2f} | | | | |")
    return [*lines, ""]


def chapter_page(chapter):
    """The text of `recipes/CHAPTER/README.md`."""
    name, about = title(chapter)
    lines = [GENERATED, "", f"# {name}", "", about[:1].upper() + about[1:], "", HOW_MEASURED, ""]
    lines += costs(chapters()[chapter]) + samples(chapters()[chapter])
    for entry in chapters()[chapter]:
        lines += section(entry)
    return "\n".join(lines)
