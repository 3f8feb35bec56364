"""`--try`: applies a trained model to the user's own inputs."""

import keras

from common.cookbook import errors


class Assets(dict):
    """{file name: text} of the files beside a model, each read on first use."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory

    def __missing__(self, name):
        return (self.directory / name).read_text(encoding="utf-8")


def try_model(recipe, directory, inputs, command):
    """Prints the output of the model in `directory` for each of `inputs` or, without any, for every line typed.

    Raises:
        errors.RecipeError: there is no model, or the recipe rejects an input.
    """
    path = directory / "model.keras"
    if not path.exists():
        raise errors.RecipeError(f"no trained model in {directory}; train one with `{command}`")
    model, assets = keras.models.load_model(path), Assets(directory)
    if not inputs:
        return converse(recipe, model, assets)
    try:
        print("\n".join(recipe.predict(model, assets, inputs)))
    except (ValueError, OSError) as error:
        raise errors.RecipeError(str(error)) from None


def converse(recipe, model, assets):
    """Answers each line until an empty one. `predict` gets all lines so far, which may be the turns of a dialogue."""
    print("Type an input and press Enter; an empty line quits.")
    lines = []
    while line := ask():
        try:
            print(recipe.predict(model, assets, [*lines, line])[-1])
            lines.append(line)
        except (ValueError, OSError) as error:
            print(error)


def ask():
    """The next line; "" at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""
