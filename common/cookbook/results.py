"""What a run measured: its results file, and its figures as text. No TensorFlow here."""

import json
import math
import statistics

from common import files
from common.cookbook import errors

NUMBER = (int, float)
RUN = {"recipe": str, "hyperparameters": dict, "seeds": list}  # What the file of an unfinished run contains.
RESULTS = {
    **RUN,
    "figure": {"name": str, "better": str, "mean": NUMBER, "sd": NUMBER, "values": list},
    "metrics": dict,
    "baseline": {"name": str, "value": NUMBER},
    "published": {"value": NUMBER, "source": str},
    "tolerance": NUMBER,
    "seconds": NUMBER,
    "machine": {"cores": int},
}


def read_json(path, shape=dict):
    """The content of a JSON file, None if there is no such file.

    shape: the type of the content or, for a dictionary, {key: shape of its value}; other keys may be there too.

    Raises:
        errors.Damaged: the file contains something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, IsADirectoryError):
        content = None
    if not fits(content, shape):
        raise damaged(path)
    return content


def damaged(path):
    """The error to raise for a file that holds something else than it should."""
    return errors.Damaged(f"{path} is damaged: restore it, or delete it")


def fits(value, shape):
    """Whether a value is of a type or, if `shape` is a dictionary, has its keys with values that fit."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], each) for key, each in shape.items())
    return isinstance(value, shape)


def read(path):
    """The results in a file, None if there is no such file; raises errors.Damaged."""
    found = read_json(path, RESULTS)
    if found:
        name = found["figure"]["name"]
        needed = {metric: NUMBER for metric in (name, found["published"].get("metric", name))}
        # Older results lack what is optional here.
        optional = {"cpu_seconds": 0.0, "variants": {}, **found}
        if not fits(optional, {"metrics": needed, "cpu_seconds": NUMBER, "variants": dict}):
            raise damaged(path)
    return found


def recorded(entry, out):
    """The results that are recorded in a directory, None if there are none.

    Raises:
        errors.RecipeError: they are another recipe's, or the file is damaged.
    """
    found = read_json(out / "results.json", {"recipe": str})
    if found and found["recipe"] != entry.name:
        raise errors.RecipeError(f"{out} contains results of {found['recipe']}: choose another --out")
    return read(out / "results.json")


def score(histories, metric):
    """The last epoch's value, in the last fit that has one: that of the model which is kept.

    histories: {model's name: {metric: one value per epoch}}.
    """
    return [history[metric] for history in histories.values() if metric in history][-1][-1]


def throughput(histories):
    """Examples per second of every fit, the median over its epochs."""
    name = "examples_per_second"
    return {model: statistics.median(history[name]) for model, history in histories.items() if name in history}


def collect(promise, measured, elapsed, scores):
    """The part of a results file that is computed from the runs of several seeds.

    measured: one {metric: value} per seed; elapsed: one {"seconds", "cpu_seconds"} per seed; scores: one per seed.
    """
    name, baseline = promise["figure"]["metric"], promise["baseline"]
    by_seed = {name: [metrics[name] for metrics in measured] for name in measured[0]}
    return {
        "figure": {"better": promise["figure"]["better"], "name": name, **summary(by_seed[name])},
        "metrics": {name: statistics.fmean(values) for name, values in by_seed.items()},
        "metrics_by_seed": by_seed,
        "baseline": {
            "name": baseline["name"],
            "value": statistics.fmean(metrics[baseline["metric"]] for metrics in measured),
        },
        "published": promise["published"],
        "tolerance": promise.get("tolerance", 0.0),
        **{name: statistics.fmean(run[name] for run in elapsed) for name in elapsed[0]},
        "score": {"name": promise["monitor"]["metric"], "values": scores},
    }


def summary(values):
    """Mean, standard deviation and values of a figure over its seeds."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": sd, "values": values}


def better(promise_or_results, value, other):
    """Whether the first value is the better one, in the figure's direction."""
    return value > other if promise_or_results["figure"]["better"] == "higher" else value < other


LOSES = {"better": "", "equal": ": no clear difference from the network", "worse": ": better than the network"}
REACHED = {"better": "passed", "equal": "no clear difference", "worse": "not reached"}


def margin(results):
    """How far chance may move the figure: three standard deviations over seeds, or the tolerance if that is larger."""
    return max(3 * results["figure"]["sd"], results["tolerance"])


def verdict(results, name, value):
    """How a metric compares with another value: "better", "worse", or, for the figure within its margin, "equal"."""
    own = results["metrics"][name]
    if name == results["figure"]["name"] and abs(own - value) <= margin(results):
        return "equal"
    return "better" if better(results, own, value) else "worse"


def against_published(results):
    """The verdict on the published figure."""
    goal = results["published"]
    return verdict(results, goal.get("metric", results["figure"]["name"]), goal["value"])


def against_baseline(results):
    """The verdict on the baseline's figure."""
    return verdict(results, results["figure"]["name"], results["baseline"]["value"])


def assignments(values):
    """Hyperparameters as `--set` takes them: "units=64 learning_rate=0.001"."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
    )


def number(value):
    """A figure as text: five significant digits."""
    return f"{value:.5g}"


def decimals(value):
    """How many decimals give four significant digits; numbers below 1 get four, or what two significant ones need."""
    if not math.isfinite(value):
        return 0
    if abs(value) >= 1:
        return max(0, 4 - len(str(int(abs(value)))))
    return max(4, 1 - math.floor(math.log10(abs(value)))) if value else 4


def spread(figure):
    """A figure over its seeds: "0.9934 ± 0.0003", or without the spread if there is only one seed."""
    if len(figure["values"]) == 1:
        return number(figure["mean"])
    places = decimals(figure["mean"])
    return f"{figure['mean']:.{places}f} ± {figure['sd']:.{places}f}"


def published(promise_or_results):
    """The source of the published figure, and the metric it is compared with unless that is the recipe's figure."""
    told = promise_or_results["published"]
    return told["source"] + (f", {told['metric'].replace('_', ' ')}" if "metric" in told else "")


def result_line(results):
    """The docstring's Result, from a results file."""
    figure, seeds = results["figure"], len(results["seeds"])
    over = f"over {seeds} seeds" if seeds > 1 else "with one seed"
    cores = results["machine"]["cores"]
    cpu = f" ({results['cpu_seconds'] / 60:.1f} CPU minutes)" if "cpu_seconds" in results else ""
    return (
        f"{figure['name'].replace('_', ' ')} {spread(figure)} {over}, "
        f"{results['seconds'] / 60:.1f} minutes a run{cpu} on {cores} core{'s' if cores > 1 else ''}"
    )


def report(results, out):
    """Prints the figure with the baseline's and the published one."""
    figure, goal = results["figure"], results["published"]
    name = figure["name"].replace("_", " ")
    rows = [
        (name, spread(figure), f"{figure['better']} is better, on the test split"),
        (
            "baseline",
            number(results["baseline"]["value"]),
            results["baseline"]["name"] + LOSES[against_baseline(results)],
        ),
        ("published", number(goal["value"]), f"{published(results)}: {REACHED[against_published(results)]}"),
    ]
    rows += [(f"  {key.replace('_', ' ')}", number(value), "") for key, value in results["metrics"].items()]
    width = max(len(row[0]) for row in rows)
    print("\n" + "\n".join(f"{label:{width}}  {value:>18}  {note}".rstrip() for label, value, note in rows))
    print(f"{results['seconds']:.0f} seconds a run; files in {out}")


def outnumbers(recorded, results):
    """Whether recorded results have the same hyperparameters as others and more seeds."""
    return (
        bool(recorded)
        and recorded["hyperparameters"] == results["hyperparameters"]
        and len(recorded["seeds"]) > len(results["seeds"])
    )


def record(results, out):
    """Writes `results.json`, or `fewer-seeds.json` beside it if the recorded results have more seeds.

    Variants that were compared with a run of the same hyperparameters are kept.
    """
    recorded = read(out / "results.json")
    if outnumbers(recorded, results):
        files.write_json(out / "fewer-seeds.json", results)
        print(f"The recorded figure is {spread(recorded['figure'])}; this run's results are in fewer-seeds.json.")
        return
    if recorded and "variants" in recorded and recorded["hyperparameters"] == results["hyperparameters"]:
        results = {**results, "variants": {**recorded["variants"], **results.get("variants", {})}}
    files.write_json(out / "results.json", results)
    (out / "fewer-seeds.json").unlink(missing_ok=True)


def merge(first, rest):
    """Joins the records of a variant's first seed and of its other seeds, in the form that `add_variant` takes."""
    by_seed = {name: [*values, *rest["metrics_by_seed"][name]] for name, values in first["metrics_by_seed"].items()}
    counts = len(first["seeds"]), len(rest["seeds"])
    mean = {
        name: (counts[0] * first[name] + counts[1] * rest[name]) / sum(counts) for name in ("seconds", "cpu_seconds")
    }
    metrics = {name: statistics.fmean(values) for name, values in by_seed.items()}
    seeds = [*first["seeds"], *rest["seeds"]]
    return {**first, **mean, "metrics": metrics, "metrics_by_seed": by_seed, "seeds": seeds}


def add_variant(out, name, values, variant):
    """Adds a variant's results to the `results.json` in `out`."""
    results = read(out / "results.json")
    chosen = ("metrics", "metrics_by_seed", "seconds", "cpu_seconds", "examples_per_second", "seeds")
    results.setdefault("variants", {})[name] = {"values": values, **{key: variant[key] for key in chosen}}
    files.write_json(out / "results.json", results)
    return results
