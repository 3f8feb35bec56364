"""Hyperparameters from a recipe's `configure` and from the command line. Copies contain `allowed` and `set_values`.

KerasTuner imports TensorFlow, so only the functions that need it import it: `--help` does without.
"""

import ast
import contextlib
import io
import textwrap
import tokenize
import types

from common.cookbook import errors


def allowed(hyperparameter):
    """The values that a hyperparameter may have: "32|64|128", "true|false", "0.0001..0.01, logarithmic"."""
    if not hasattr(hyperparameter, "min_value"):
        return "|".join(map(str, hyperparameter.values)).lower()
    step = f" in steps of {hyperparameter.step}" if (hyperparameter.step or 1) != 1 else ""
    scale = ", logarithmic" if hyperparameter.sampling == "log" else ""
    return f"{hyperparameter.min_value}..{hyperparameter.max_value}{step}{scale}"


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


class Declarations:
    """Stands in for KerasTuner's `HyperParameters` when `configure` is only listed, not searched."""

    def __init__(self):
        self.space = []

    def declare(self, name, default, **attributes):
        self.space.append(types.SimpleNamespace(name=name, default=default, **attributes))

    def Int(self, name, min_value, max_value, step=None, sampling=None, default=None):
        self.declare(name, default, min_value=min_value, max_value=max_value, step=step, sampling=sampling)

    Float = Int

    def Choice(self, name, values, default=None):
        self.declare(name, default, values=values)

    def Boolean(self, name, default=False):
        self.declare(name, default, values=[True, False])


def declarations(tree):
    """The hyperparameters that the module `tree` declares in `configure`, which may use only the module's literals."""
    namespace = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "configure":
            exec(compile(ast.Module([node], []), "configure", "exec"), namespace)  # noqa: S102
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            # In a dictionary such as {"lstm": layers.LSTM}, the keys are literals; other non-literals are skipped.
            literal = ast.Tuple(node.value.keys) if isinstance(node.value, ast.Dict) else node.value
            with contextlib.suppress(ValueError):
                namespace[node.targets[0].id] = ast.literal_eval(literal)
    return namespace["configure"](Declarations()).space


def remarks(source):
    """{hyperparameter: the comment beside or above its declaration in `configure`}."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "configure")
    found, before = {}, function.body[0].end_lineno
    for node in function.body[1:-1]:
        lines = range(before + 1, node.end_lineno + 1)
        found[node.value.args[0].value] = " ".join(comments[line] for line in lines if line in comments)
        before = node.end_lineno
    return found


def listing(tree, source):
    """Every hyperparameter with its default, range and comment: the end of `--help`."""
    space, told = declarations(tree), remarks(source)
    width = max(len(each.name) for each in space)
    lines = []
    for each in space:
        default = str(each.default).lower() if isinstance(each.default, bool) else str(each.default)
        lines.append(f"  {each.name:{width}}  {default:8}  {allowed(each)}")
        lines += textwrap.wrap(told[each.name], 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def parse(configure, assignments):
    """Parses `name=value` texts.

    Returns:
        Dictionary of the values, each with the type of its hyperparameter.

    Raises:
        errors.RecipeError: an unknown name, or a value that is not allowed.
    """
    hp = build(configure, {})
    try:
        set_values(hp, assignments)
    except ValueError as error:
        raise errors.RecipeError(f"--set: {error}") from None
    return {name: hp.values[name] for name in dict.fromkeys(each.partition("=")[0] for each in assignments)}


def build(configure, values):
    """New HyperParameters with the recipe's defaults, some replaced by `values`."""
    import keras_tuner

    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    return configure(hp)
