"""`--try`, with models that are part of the repository and with tiny ones."""

import io
import json
import shlex
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from common import files
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
        ("recipes.vision.lenet", "nowhere.png", "nowhere.png cannot be read as an image"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(module, given, told):
    with pytest.raises(SystemExit, match=f"^[^\n]*{told}[^\n]*$"):
        command_line.main(module, ["--try", given])


@pytest.mark.recorded
def test_every_recipe_shows_an_input_to_try(entry):
    assert shlex.split(entry.example)


def test_without_a_run_it_says_how_to_train(tmp_path):
    with pytest.raises(
        SystemExit, match="no trained model in .*; train one with `python -m recipes.seq2seq.addition --out .*`"
    ):
        command_line.main(ADDITION, ["--try", "1+1", "--out", str(tmp_path)])


@pytest.fixture
def finished(tmp_path):
    """A copy of the directory in which a run of `seq2seq.addition` is recorded."""
    out = tmp_path / "out"
    shutil.copytree(catalogue.entry("seq2seq.addition").directory, out, ignore=shutil.ignore_patterns("variants"))
    return out


def test_other_files_beside_a_model_are_not_read(finished, capsys):
    (finished / "notes.txt").write_bytes(b"\xff")
    (finished / "table.csv").mkdir()
    command_line.main(ADDITION, ["--try", "535+61", "--out", str(finished)])
    assert capsys.readouterr().out == "596\n"


def a_zip_with_another_byte():
    """An archive, as a model is, whose content does not fit its checksum."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("metadata.json", "config.json"):
            file.writestr(name, "{}")
    return archive.getvalue().replace(b"{}", b"[]")


@pytest.mark.parametrize(
    "file, content, told",
    [
        ("settings.json", None, "settings.json can't be read; train the model again with `python -m"),
        ("settings.json", b"\xff", "settings.json can't be read; train the model again with `python -m"),
        ("model.keras", None, "no trained model in .*; train one with `[^`]*--out [^`]*/out`"),
        (
            "model.keras",
            a_zip_with_another_byte(),
            "model.keras is not a model that Keras can load; train it again with",
        ),
        ("model.keras", b"cut", "model.keras is not a model that Keras can load; train it again with `python -m"),
        ("results.json", b'{"recipe": "vision.lenet"}', "contains results of vision.lenet: choose another --out"),
    ],
)
def test_what_is_missing_damaged_or_another_recipe_s_is_told_with_what_to_do(finished, file, content, told):
    (finished / file).unlink()
    if content:
        (finished / file).write_bytes(content)
    with pytest.raises(SystemExit, match=f"^seq2seq.addition: [^\n]*{told}[^\n]*$"):
        command_line.main(ADDITION, ["--try", "1+1", "--out", str(finished)])


def test_an_unfinished_run_is_to_be_resumed(finished):
    (finished / "model.keras").unlink()
    files.write_json(finished / "backup" / "identity.json", {})
    with pytest.raises(SystemExit, match="train one with `[^`]*/out --resume`$"):
        command_line.main(ADDITION, ["--try", "1+1", "--out", str(finished)])


class Reader:
    """Stands for a model: keeps what it is given."""

    input_shape = (None, 6, 7)

    def predict(self, inputs, verbose):
        self.seen = np.asarray(inputs[0] if isinstance(inputs, list) else inputs)
        return np.zeros((len(self.seen), 1, 7) if self.seen.ndim == 3 else (len(self.seen), 1))


REVIEW = "one two three four five six seven eight".split()


def tokens_read(recipe, text, truncation="last"):
    """What the model of a recipe reads of a text if it reads three words at most."""
    settings = {"length": 3, "truncation": truncation, "padding": "right"}
    assets = {"vocabulary.txt": "\n".join(REVIEW), "length.txt": "3", "settings.json": json.dumps(settings)}
    assets["terms.txt"] = "\n".join(f"{word}\t1.0" for word in REVIEW)
    reader = Reader()
    recipe.predict(reader, assets, [text])
    return reader.seen.tolist()


@pytest.mark.parametrize(
    "name", ["recurrent.masking", "recurrent.pretrained_language_model", "transformers.self_attention"]
)
def test_a_long_review_is_cut_as_in_training_and_an_empty_one_is_refused(recipe, name):
    last, first = (" ".join(words) for words in (REVIEW[-3:], REVIEW[:3]))
    assert tokens_read(recipe, " ".join(REVIEW)) == tokens_read(recipe, last) != tokens_read(recipe, first)
    if name == "recurrent.masking":
        assert tokens_read(recipe, " ".join(REVIEW), truncation="first") == tokens_read(recipe, first)
    with pytest.raises(ValueError, match="no words"):
        tokens_read(recipe, " ")


@pytest.mark.parametrize("name", ["recurrent.forecasting"])
@pytest.mark.parametrize(
    "rows, told",
    [
        ([["HUFL"] * 7, *[[1.0] * 7] * 9], "expected a number in each of the columns HUFL, "),
        ([None, *[[1.0] * 7] * 5], "has 5 hours: expected 6 or more"),
        ([None, *[[1.0] * 7] * 8, [1.0] * 6 + [np.nan]], "among the last 6 hours is a value that is NaN"),
        ([None, [np.nan] * 7, *[[1.0] * 7] * 6], None),
    ],
    ids=["no columns", "too short", "NaN", "NaN long ago"],
)
def test_a_forecast_needs_as_many_whole_hours_as_training(recipe, rows, told, tmp_path):
    header, *hours = rows
    lines = [header or COLUMNS["recurrent.forecasting"].split(","), *hours]
    (tmp_path / "hours.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))
    assets = {"scale.csv": "\n".join(["variable,mean,deviation", *(f"{name},0.0,1.0" for name in recipe.VARIABLES)])}
    if told is None:
        assert len(recipe.predict(Reader(), assets, [str(tmp_path / "hours.csv")])) == 1
    else:
        with pytest.raises(ValueError, match=told):
            recipe.predict(Reader(), assets, [str(tmp_path / "hours.csv")])


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
