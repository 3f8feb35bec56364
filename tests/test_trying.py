"""`--try`, with models that are part of the repository and with tiny ones."""

import io
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from common.cookbook import catalogue, command_line

ADDITION = "recipes.seq2seq.addition"
COLUMNS = {"recurrent.forecasting": "HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"}  # The other recipes read one series.


def examples(entry, directory):
    """The inputs that the docstring shows after `--try`, with files of that name."""
    inputs = shlex.split(entry.example)
    generator = np.random.default_rng(0)
    for index, name in enumerate(inputs):
        path = directory / name
        if path.suffix == ".png":
            picture = np.zeros((64, 64), "uint8")
            picture[10:50, 28:36] = 255
            Image.fromarray(picture).save(path)
        elif path.suffix == ".csv":
            header = COLUMNS.get(entry.name, "value")
            rows = generator.normal(size=(1_000, len(header.split(","))))
            np.savetxt(path, rows, delimiter=",", header=header, comments="")
        if path.exists():
            inputs[index] = str(path)
    return inputs or ["1"]


def test_a_model_in_the_repository_is_tried_at_once(capsys):
    command_line.main(ADDITION, ["--try", "535+61", "999+1"])
    assert capsys.readouterr().out.splitlines() == ["596", "1000"]


def test_a_digit_is_found_at_any_size_and_place_dark_or_light(capsys, tmp_path):
    """A one, as anyone would draw it: a thick upright stroke."""
    picture = np.full((200, 120), 250, "uint8")
    picture[40:160, 70:84] = 20
    for name, pixels in (("dark", picture), ("light", 255 - picture)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    command_line.main("recipes.vision.lenet", ["--try", str(tmp_path / "dark.png"), str(tmp_path / "light.png")])
    assert [line[:3] for line in capsys.readouterr().out.splitlines()] == ["1 (", "1 ("]


@pytest.mark.parametrize(
    "module, given, told",
    [
        (ADDITION, "1000-1", "'1000-1' is not a sum of two numbers of one to three digits"),
        ("recipes.vision.lenet", "nowhere.png", "'nowhere.png' is not an image file that can be read"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(module, given, told):
    with pytest.raises(SystemExit, match=f"^[^\n]*{told}[^\n]*$"):
        command_line.main(module, ["--try", given])


def test_without_a_run_it_says_how_to_train(tmp_path):
    with pytest.raises(
        SystemExit, match="no trained model in .*; train one with `python -m recipes.seq2seq.addition --out .*`"
    ):
        command_line.main(ADDITION, ["--try", "1+1", "--out", str(tmp_path)])


def test_without_inputs_every_line_is_answered_and_a_mistake_ends_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("535+61\nnonsense\n217+628\n\n834+380\n"))
    command_line.main(ADDITION, ["--try"])
    printed = capsys.readouterr().out
    assert "> 596\n" in printed and "'nonsense' is not a sum" in printed and printed.endswith("> 845\n> ")


def test_predict_of_a_tiny_run_answers_every_input(recipe, keras_run, entry, hp, tmp_path):
    """With the model and the texts that the run saved, and with nothing else."""
    if not hasattr(recipe, "predict"):
        assert entry.name.startswith("kinds")
        return
    assert recipe.predict.__code__.co_varnames[:3] == ("model", "assets", "inputs")
    inputs = examples(entry, tmp_path)
    saved = {
        path.name: path.read_text() for path in keras_run.out.iterdir() if path.suffix in (".json", ".txt", ".csv")
    }
    answered = recipe.predict(keras_run.model, saved, inputs)
    assert len(answered) == len(inputs) and all(isinstance(each, str) for each in answered)
    if hasattr(recipe, "assets"):
        assert recipe.predict(keras_run.model, recipe.assets(hp), inputs) == answered
