"""Hyperparameters from a recipe's `configure` and from the command line. Copies contain `allowed` and `set_values`."""

import keras_tuner

from common.cookbook import errors


def allowed(hyperparameter):
    """The values that a hyperparameter may have, as text: "32|64|128", "true|false", "0.0001..0.01"."""
    if not hasattr(hyperparameter, "min_value"):
        return "|".join(map(str, hyperparameter.values)).lower()
    step = f" in steps of {hyperparameter.step}" if (hyperparameter.step or 1) != 1 else ""
    return f"{hyperparameter.min_value}..{hyperparameter.max_value}{step}"


def set_values(hp, assignments):
    """Sets hyperparameters from "name=value" texts; ValueError says in one line what is allowed."""
    space = {each.name: each for each in hp.space}
    for name, _, text in (assignment.partition("=") for assignment in assignments):
        if name not in space:
            raise ValueError(f"no hyperparameter {name!r}; known: {', '.join(space)}")
        low, high, step = (getattr(space[name], key, None) for key in ("min_value", "max_value", "step"))
        try:
            if low is None:
                hp.values[name] = {str(value).lower(): value for value in space[name].values}[text.lower()]
                continue
            value = type(low)(text)
            if not low <= value <= high or (step and abs((value - low) / step - round((value - low) / step)) > 1e-6):
                raise ValueError
            hp.values[name] = value
        except (KeyError, ValueError):
            raise ValueError(f"{name}={text} is not allowed: {name} takes {allowed(space[name])}") from None


def listing(configure):
    """Every hyperparameter with its default and range, one per line: the end of `--help`."""
    space = configure(keras_tuner.HyperParameters()).space
    width = max(len(hyperparameter.name) for hyperparameter in space)
    return "\n".join(f"  {each.name:{width}}  {each.default}  ({allowed(each)})" for each in space)


def parse(configure, assignments):
    """Reads `name=value` texts.

    Returns:
        Dictionary of the values, each of its hyperparameter's type.

    Raises:
        errors.RecipeError: an unknown name, or a value that is not allowed.
    """
    hp = configure(keras_tuner.HyperParameters())
    try:
        set_values(hp, assignments)
    except ValueError as error:
        raise errors.RecipeError(f"--set: {error}") from None
    return {name: hp.values[name] for name in dict.fromkeys(each.partition("=")[0] for each in assignments)}


def build(configure, values):
    """Fresh HyperParameters with the recipe's defaults, some replaced by `values`."""
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    return configure(hp)
