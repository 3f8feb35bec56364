"""`--try`: applies a trained model to the user's own inputs."""

import zipfile

import keras

from common.cookbook import errors, output, results, runs


class Assets(dict):
    """The texts that were saved beside a model, {file name: text}, each read when the recipe asks for it.

    Raises:
        errors.RecipeError: there is no such text, as after a run that was interrupted.
    """

    def __init__(self, directory, command):
        super().__init__()
        self.directory, self.command = directory, command

    def __missing__(self, name):
        try:
            return self.setdefault(name, (self.directory / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            message = f"{self.directory / name} can't be read; train the model again with `{self.command}`"
            raise errors.RecipeError(message) from None


def try_model(entry, recipe, directory, inputs, command):
    """Prints the output of the model in `directory` for each of `inputs` or, without any, for every line typed.

    Raises:
        errors.RecipeError: there is no model, it is another recipe's, or the recipe rejects an input.
    """
    results.recorded(entry, directory)
    command += " --resume" * runs.can_resume(directory)
    path = directory / "model.keras"
    if not path.is_file():
        raise errors.RecipeError(f"no trained model in {directory}; train one with `{command}`")
    try:
        model = keras.models.load_model(path)
    except (ValueError, OSError, zipfile.BadZipFile):
        raise errors.RecipeError(
            f"{path} is not a model that Keras can load; train it again with `{command}`"
        ) from None
    assets = Assets(directory, command)
    if not inputs:
        return converse(recipe, model, assets)
    try:
        print(output.printable("\n".join(recipe.predict(model, assets, inputs))))
    except (ValueError, OSError) as error:
        raise errors.RecipeError(str(error)) from None


def converse(recipe, model, assets):
    """Answers each line until an empty one. `predict` gets all lines so far, which may be the turns of a dialogue."""
    print("Type an input and press Enter; an empty line quits.")
    lines = []
    while line := ask():
        try:
            print(output.printable(recipe.predict(model, assets, [*lines, line])[-1]))
            lines.append(line)
        except (ValueError, OSError) as error:
            print(error)


def ask():
    """The next line; "" at the end of the input."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
