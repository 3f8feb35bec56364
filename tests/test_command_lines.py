"""Command lines that make sense or none: each works, or ends in one line before anything is trained."""

import contextlib
import functools
import io
import random
import shutil
import sys
import types

import keras
import pytest

from common import plots
from common.cookbook import catalogue, command_line, copying, trying
from conftest import entry_of, module_of
from recipes import __main__ as commands

NAME = "seq2seq.addition"
OUT = "choose another --out"


class StandIn:
    """Has the hyperparameters and the promise of a recipe, trains in no time, and counts its trainings."""

    def __init__(self, recipe):
        self.TINY, self.VARIANTS, self.configure = recipe.TINY, recipe.VARIANTS, recipe.configure
        self.PROMISE = {**recipe.PROMISE, "data": []}
        self.trained = 0

    def train(self, hp, seed, callbacks):
        self.trained += 1

    def evaluate(self, model, hp):
        parts = [self.PROMISE[name] for name in ("figure", "baseline", "published")]
        return {part["metric"]: 0.5 for part in parts}

    def validate(self, model, hp):
        return {self.PROMISE["monitor"]["metric"]: 0.5}

    def save(self, model, directory):
        (directory / "model.keras").write_text("")

    def show(self, model, hp):
        return {"samples": "1+1 = 2"}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The recipe that the command line of `seq2seq.addition` runs, whose own directory is below `tmp_path`."""
    recipe, entry = StandIn(module_of(NAME)), entry_of(NAME)
    monkeypatch.setitem(sys.modules, f"recipes.{NAME}", recipe)
    monkeypatch.setattr(catalogue, "entry", lambda name: entry)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(command_line, "parser", functools.cache(command_line.parser))
    monkeypatch.setattr(plots, "search", lambda *scores: types.SimpleNamespace(savefig=lambda path: path.touch()))
    monkeypatch.setattr(trying, "ask", lambda: "")
    monkeypatch.setattr(keras.backend, "clear_session", lambda: None)  # It would look for garbage in all of TensorFlow.
    return recipe


def told(main, *arguments):
    """What a command line that fails prints to standard error; "" if it works."""
    printed, failed = io.StringIO(), False
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
        try:
            failed = main(*arguments)
        except SystemExit as end:
            failed = end.code
    return (f"{failed}\n" if isinstance(failed, str) else printed.getvalue()) if failed else ""


def run(arguments):
    return told(command_line.main, f"recipes.{NAME}", arguments)


def is_one_line(text):
    return text.endswith("\n") and text.count("\n") == 1 and len(text) > 20


def bad_places(tmp_path):
    """Paths below which no file can be written."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circular").symlink_to("circular")
    places = ["file", "file/below", "dangling", "dangling/below", "circular", "circular/below", "n" * 300]
    return [str(tmp_path / place) for place in places] + ["/dev/null", "/dev/null/below", "/proc/self", "/proc/new"]


def draw(generator, places):
    """Some of the options, with values that are right or wrong."""
    numbers = ["0", "1", "2", "3", "-1", "99999999999", "1.5", "x", ""]
    assignments = ["units=64", "units=33", "reverse=false", "learning_rate=nan", "units", "=", "", "a=b", "units=6\n4"]
    options = {
        "--seed": numbers,
        "--seeds": numbers,
        "--search": numbers,
        "--tuner": [*command_line.TUNERS, "none"],
        "--out": places,
        "--set": assignments,
        "--try": ["1+1", "nonsense", ""],
        "--tiny": [],
        "--resume": [],
        "--variants": [],
        "--record": [],
        "--help": [],
        "--nonsense": [],
        "stray": [],
    }
    chosen = generator.sample(list(options), generator.randint(0, 3))
    line = [[option, *generator.choices(values, k=1 if values else 0)] for option, values in options.items()]
    return [word for words in line if words[0] in chosen for word in words]


def test_a_line_works_or_ends_in_one_line_before_anything_is_trained(stand_in, tmp_path):
    generator = random.Random(0)
    places = bad_places(tmp_path) + [str(tmp_path / place) for place in ("one", "other", "with a blank", "\n")]
    worked = refused = 0
    for _ in range(500):
        line, before = draw(generator, [*places, ""]), stand_in.trained
        message = run(line)
        worked, refused = worked + (not message), refused + bool(message)
        if message:
            assert is_one_line(message), (line, message)
            assert stand_in.trained == before, (line, message)
    assert worked > 100 and refused > 100
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("--seeds 0", "'0' is not a whole number from 1 to 1000"),
        ("--seeds 99999999999", "'99999999999' is not a whole number from 1 to 1000"),
        ("--seed -1", "'-1' is not a whole number from 0 to 2147483647"),
        ("--search 0", "'0' is not a whole number from 1 to"),
        ("--search two", "'two' is not a whole number"),
        ("--search 2 --variants", "--search and --variants don't go together: give one"),
        ("--search 2 --try", "--search and --try don't go together"),
        ("--search 2 --resume", "resumes by itself"),
        ("--search 2 --seeds 2", "every trial is trained from the one --seed"),
        ("--variants --try 1+1", "--variants and --try don't go together"),
        ("--variants --seeds 2", "seeds of the run that they are compared with"),
        ("--try 1+1 --resume", "--try trains nothing"),
        ("--record --out elsewhere", "only the run in the recipe's own directory"),
        ("--try 1+1 --seeds 2", "--try trains nothing"),
        ("--tuner bayesian", "--tuner does nothing without --search"),
        ("--out=", "the name of the directory is empty"),
        ("--set units=6\v4", "units=6 4 is not allowed"),
        ("--nonsense", "unrecognized arguments: --nonsense; see --help"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(stand_in, line, expected):
    message = run(line.split(" "))
    assert is_one_line(message) and expected in message and stand_in.trained == 0


@pytest.mark.parametrize("others", [[], ["--resume"], ["--search", "1"], ["--variants"], ["--try", "1+1"]])
def test_an_output_directory_that_cannot_be_used_is_named(stand_in, tmp_path, others):
    for place in bad_places(tmp_path):
        message = run([*others, "--out", place])
        # `mkdir` blames the link that it meets first.
        assert is_one_line(message) and place.removesuffix("/below").replace("/proc/new", "/proc") in message
        assert OUT in message or others in (["--resume"], ["--variants"], ["--try", "1+1"])
    if others in ([], ["--search", "1"]):
        assert "it is not a directory" in run([*others, "--out", str(tmp_path / "dangling")])
    assert stand_in.trained == 0


@pytest.mark.parametrize("line", [[], ["--tiny", "--seeds", "2"], ["--search", "1"]])
@pytest.mark.parametrize("taken", ["model.keras", "results.json", "history.csv", "digits.png", "logs", "backup"])
def test_names_that_a_run_needs_are_looked_at_before_it(stand_in, tmp_path, line, taken):
    """A directory that has the name of a file would fail the run at its end."""
    path = tmp_path / "out" / ("search/random" if "--search" in line else "") / taken
    path.parent.mkdir(parents=True)
    path.mkdir() if path.suffix else path.touch()
    message = run([*line, "--out", str(tmp_path / "out")])
    assert is_one_line(message) and str(path) in message and OUT in message
    assert stand_in.trained == 0


def test_variants_where_there_are_none_or_from_another_seed(stand_in, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    assert "run seq2seq.addition without --variants first" in run(["--variants", *out])
    assert run(out) == run(["--variants", *out]) == ""
    assert "finished run of the same seed" in run(["--variants", "--seed", "1", *out])
    del stand_in.VARIANTS
    for place in (out, []):
        message = run(["--variants", *place])
        assert is_one_line(message) and "has no variants" in message


def test_only_the_recipe_s_own_directory_loses_pictures(stand_in, tmp_path):
    given, own = tmp_path / "given", tmp_path / "repository" / "saved_models" / "seq2seq" / "addition" / "run"
    for directory in (given, own):
        directory.mkdir(parents=True)
        (directory / "holiday.png").touch()
    assert run([]) == run(["--out", str(given)]) == ""
    assert (given / "holiday.png").exists() and not (own / "holiday.png").exists()


def test_a_copy_that_cannot_be_written_is_told_in_one_line(tmp_path):
    targets = [f"{place}/mine.py" for place in bad_places(tmp_path)] + [f"{tmp_path}/{'n' * 300}.py"]
    for name in ("dangling", "circular"):
        (tmp_path / f"{name}.py").symlink_to(tmp_path / name)
        targets.append(f"{tmp_path}/{name}.py")
    before = sorted(tmp_path.iterdir())
    for target in targets:
        message = told(commands.main, ["copy", NAME, target])
        assert is_one_line(message) and "cannot use" in message or "already exists" in message, message
    assert sorted(tmp_path.iterdir()) == before


def test_a_builder_that_cannot_be_copied_leaves_neither_half_of_it_nor_a_copy(tmp_path, monkeypatch):
    def full(source, target, **options):
        target.mkdir()
        raise shutil.Error([(str(source / "a.py"), str(target / "a.py"), "[Errno 28] No space left on device")])

    monkeypatch.setattr(copying.shutil, "copytree", full)
    message = told(commands.main, ["copy", NAME, f"{tmp_path}/mine.py"])
    assert is_one_line(message) and f"cannot write {tmp_path / 'sums' / 'a.py'}: [Errno 28] No space left" in message
    assert not list(tmp_path.iterdir())
