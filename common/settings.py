"""Hyperparameters from a recipe's `configure` and the command line."""

import keras_tuner

from common import errors


def allowed(hyperparameter):
    """The values of a hyperparameter as text: "32|64|128", "0.0001..0.01", "true|false"."""
    if isinstance(hyperparameter, keras_tuner.engine.hyperparameters.Choice):
        return "|".join(map(str, hyperparameter.values))
    if isinstance(hyperparameter, keras_tuner.engine.hyperparameters.Boolean):
        return "true|false"
    step = f" in steps of {hyperparameter.step}" if (hyperparameter.step or 1) != 1 else ""
    return f"{hyperparameter.min_value}..{hyperparameter.max_value}{step}"


def listing(configure):
    """Every hyperparameter with its default and range, one a line: the end of `--help`."""
    space = configure(keras_tuner.HyperParameters()).space
    width = max(len(hyperparameter.name) for hyperparameter in space)
    return "\n".join(f"  {each.name:{width}}  {each.default}  ({allowed(each)})" for each in space)


def _value(hyperparameter, text):
    """Reads a value of the hyperparameter's type and range; ValueError where it has none such."""
    hyperparameters = keras_tuner.engine.hyperparameters
    if isinstance(hyperparameter, hyperparameters.Boolean):
        return {"true": True, "false": False}[str(text).lower()]
    if isinstance(hyperparameter, hyperparameters.Choice):
        return {str(value): value for value in hyperparameter.values}[str(text)]
    value = int(text) if isinstance(hyperparameter, hyperparameters.Int) else float(text)
    if not hyperparameter.min_value <= value <= hyperparameter.max_value:
        raise ValueError
    if isinstance(hyperparameter, hyperparameters.Int) and hyperparameter.step and hyperparameter.sampling == "linear":
        if (value - hyperparameter.min_value) % hyperparameter.step:
            raise ValueError
    return value


def parse(configure, assignments):
    """Reads `name=value` texts.

    Returns:
        Dictionary of the values, each of its hyperparameter's type.

    Raises:
        errors.RecipeError: an unknown name, or a value outside its range.
    """
    known = {each.name: each for each in configure(keras_tuner.HyperParameters()).space}
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise errors.RecipeError(f"--set takes name=value, not {assignment!r}")
        if name not in known:
            raise errors.RecipeError(f"no hyperparameter {name!r}; known: {', '.join(known)}")
        try:
            values[name] = _value(known[name], text)
        except (ValueError, KeyError):
            raise errors.RecipeError(f"{name}={text} is not allowed: {name} takes {allowed(known[name])}") from None
    return values


def build(configure, values):
    """Fresh HyperParameters with the recipe's defaults, `values` in place of some."""
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    return configure(hp)
