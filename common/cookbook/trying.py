"""`--try`: applies a trained model to the user's own inputs."""

import keras

from common.cookbook import errors, output


def try_model(recipe, directory, inputs, command):
    """Prints the output of the model in `directory` for each of `inputs` or, without any, for every line typed.

    Raises:
        errors.RecipeError: there is no model, or the recipe rejects an input.
    """
    path = directory / "model.keras"
    if not path.exists():
        raise errors.RecipeError(f"no trained model in {directory}; train one with `{command}`")
    model = keras.models.load_model(path)
    texts = (each for each in directory.iterdir() if each.suffix in (".txt", ".json", ".csv"))
    assets = {each.name: each.read_text(encoding="utf-8") for each in texts}
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
