"""Answers to a recipe's questions, with numbers from its results file. No TensorFlow here."""

import math
import re
import statistics
import string

from common.cookbook import errors, results

UNMEASURED = "not measured yet"
NO_DIFFERENCE = "no difference beyond the spread of the seeds"


class Numbers(string.Formatter):
    """Fills in `{accuracy:.3f}`, a metric of the run, and `{mask off/accuracy:.3f}`, that of the variant "mask off".

    Raises:
        errors.RecipeError: no such number was measured.
    """

    def __init__(self, recorded):
        self.recorded = recorded

    def get_field(self, field_name, args, kwargs):
        return statistics.fmean(values(self.recorded, *split(field_name))), field_name


def split(field_name):
    """The variant's name, "" for the run itself, and the metric's."""
    variant, _, metric = field_name.rpartition("/")
    return variant, metric


def values(recorded, variant, metric):
    """The measured values, one per seed; where a record has only the mean, that alone."""
    run = recorded["variants"][variant] if variant else recorded
    if metric in run.get("metrics_by_seed", {}):
        return run["metrics_by_seed"][metric]
    if not variant and metric == recorded["figure"]["name"]:
        return recorded["figure"]["values"]
    single = {**run["metrics"], "seconds": run["seconds"], "cpu_seconds": run.get("cpu_seconds")}
    if single.get(metric) is None:
        raise errors.RecipeError(f"{metric!r} was not measured" + (f" for the variant {variant!r}" if variant else ""))
    return [single[metric]]


def fill(sentences, recorded):
    """Every question with its answer; "not measured yet" where the run or a variant in the answer has no results.

    sentences: {question: answer with placeholders}.
    """
    return {
        question: Numbers(recorded).format(sentence) if measured(sentence, recorded) else UNMEASURED
        for question, sentence in sentences.items()
    }


def measured(sentence, recorded):
    """Whether there are results of the run and of every variant that a sentence gives numbers for."""
    return bool(recorded) and all(variant in recorded.get("variants", {}) for variant, _ in compared(sentence))


def compared(sentence):
    """The (variant, metric) pairs that a sentence gives numbers for."""
    fields = [split(name) for _, name, _, _ in string.Formatter().parse(sentence) if name]
    return [(variant, metric) for variant, metric in fields if variant]


def differs(recorded, variant, metric):
    """Whether a variant's mean is off by more than the seeds explain, None if the record can't show that.

    Against the run's own seeds alone: by three standard deviations, or for the figure by its margin. Where the variant
    has three seeds too: by three standard errors of the difference. With three seeds, chance alone passes the first in
    about one of eight comparisons and the second in one of twenty-five.
    """
    own, other = values(recorded, "", metric), values(recorded, variant, metric)
    difference = abs(statistics.fmean(own) - statistics.fmean(other))
    if len(own) > 2 and len(other) > 2:
        return difference > 3 * math.sqrt(statistics.variance(own) / len(own) + statistics.variance(other) / len(other))
    if metric == recorded["figure"]["name"]:
        return difference > results.margin(recorded)
    return difference > 3 * statistics.stdev(own) if len(own) > 1 else None


def complaints(sentences, recorded):
    """What is wrong with the answers, as messages: numbers typed in, and claims that the figures do not support."""
    found = []
    for question, sentence in sentences.items():
        parts = list(string.Formatter().parse(sentence))
        if sentence != UNMEASURED and not any(name for _, name, *_ in parts):
            found.append(f"{question} is answered without a measured number")
        typed = " ".join(text for text, *_ in parts)
        # Settings ("200 steps") may be typed; decimals and percentages are taken to be measured.
        found += [f"{question} contains the typed number {each}" for each in re.findall(r"\d+\.\d+|\d+ ?%", typed)]
        verdicts = [differs(recorded, *pair) for pair in compared(sentence)] if measured(sentence, recorded) else []
        if NO_DIFFERENCE in sentence and False not in verdicts:
            found.append(f"{question} says {NO_DIFFERENCE!r}, and no variant in the answer is that close")
        if NO_DIFFERENCE not in sentence and False in verdicts:
            found.append(f"{question} claims a difference that is within the spread of the seeds")
    return found
