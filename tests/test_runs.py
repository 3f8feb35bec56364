"""Runs that are interrupted or repeated: they harm no other run, and nothing is lost."""

import errno
import io
import os
import shutil
import signal
import sys
import types

import keras
import pytest

import standin
from common import callbacks, files
from common.cookbook import catalogue, command_line, errors, locking, output, results, runs
from conftest import Killed
from recipes import __main__ as commands
from standin import StandIn, dispatch, execute


def contents(directory):
    """{file: its bytes} of a directory without its subdirectories."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The directory of the stand-in's record, instead of the one in the repository."""
    monkeypatch.setattr(catalogue.Entry, "directory", tmp_path / "home")
    return tmp_path / "home"


def test_a_second_run_in_a_directory_is_refused_and_harms_nothing(tmp_path):
    first, tried = StandIn(), []

    def second(epoch, logs, agent):
        with pytest.raises(errors.RecipeError, match=f"^a run is in progress in {tmp_path}, process {os.getpid()}: "):
            execute(StandIn(), tmp_path, {"rate": 2.0})
        tried.append(epoch)

    first.at_epoch = second
    measured = execute(first, tmp_path)
    assert tried == [0, 1] and measured["metrics"]["accuracy"] == 2.0
    assert results.read(tmp_path / "results.json") == measured
    assert not (tmp_path / "backup-previous").exists()
    assert execute(StandIn(), tmp_path) is not None, "the directory is free again"


@pytest.mark.parametrize("arguments", [["--search", "1"], ["--variants"], ["--record"]])
def test_what_else_writes_into_a_directory_is_refused_too(arguments, home):
    execute(StandIn(), home / "run")
    directory = home / "run" / "search" / "random" if "--search" in arguments else home / "run"
    with locking.locked(directory), pytest.raises(errors.RecipeError, match="a run is in progress"):
        dispatch(StandIn(), *arguments)


@pytest.mark.parametrize("function", ["record", "rmtree"])
def test_a_run_killed_after_its_evaluation_resumes(function, tmp_path, monkeypatch):
    """Before its results are recorded, or before its backup is removed."""

    def killed(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        if function == "rmtree":
            patch.setattr(runs, "shutil", types.SimpleNamespace(rmtree=killed))
        with pytest.raises(Killed):
            execute(StandIn(), tmp_path, **({"record": killed} if function == "record" else {}))
    assert (tmp_path / "results.json").exists() == (function == "rmtree")
    recipe, trained = StandIn(), []
    recipe.at_epoch = lambda *given: trained.append(given)
    assert execute(recipe, tmp_path, resume=True)["metrics"]["accuracy"] == 2.0
    assert not trained and results.read(tmp_path / "results.json")["metrics"]["accuracy"] == 2.0
    assert not (tmp_path / "backup").exists()


def test_a_seed_that_is_finished_is_not_measured_again(tmp_path):
    expected = execute(StandIn(), tmp_path / "whole", seeds=(0, 1, 2))
    recipe, evaluated = StandIn(), []

    def third(*given):
        evaluated.append(given)
        if len(evaluated) == 3:
            raise Killed

    recipe.before_evaluation = third
    with pytest.raises(Killed):
        execute(recipe, tmp_path / "killed", seeds=(0, 1, 2))
    again, repeated = StandIn(), []
    again.before_evaluation = lambda *given: repeated.append(given)
    again.save = again.show = lambda *given: pytest.fail("the first seed's files were there")
    measured = execute(again, tmp_path / "killed", seeds=(0, 1, 2), resume=True)
    assert len(repeated) == 1 and measured["metrics_by_seed"] == expected["metrics_by_seed"]
    assert measured["score"] == expected["score"] and measured["seconds"] < 10
    assert (tmp_path / "killed" / "history.csv").read_bytes().count(b"\n") == 1 + 3 * 2


def test_a_variant_killed_after_its_evaluation_resumes(home, monkeypatch):
    def killed(*arguments, **options):
        raise Killed

    execute(StandIn(), home / "run")
    with monkeypatch.context() as patch:
        patch.setattr(results, "add_variant", killed)
        with pytest.raises(Killed):
            dispatch(StandIn(), "--variants")
    recipe, trained = StandIn(), []
    recipe.at_epoch = lambda *given: trained.append(given)
    dispatch(recipe, "--variants", "--resume")
    assert not trained and results.read(home / "run" / "results.json")["variants"]["fast"]["metrics"]["accuracy"] == 4.0


def full_disk(path):
    """Writes half a file, as `keras.Model.save` and `Figure.savefig` do when the disk is full."""
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_model_and_a_picture_are_whole_or_the_old_ones(tmp_path, monkeypatch):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    path = tmp_path / "model.keras"
    runs.save_model(model, path)
    before = contents(tmp_path)
    monkeypatch.setattr(keras.Model, "save", lambda self, path: full_disk(path))
    with pytest.raises(OSError, match="No space left") as error:
        runs.save_model(model, path)
    assert error.value.filename == str(path)
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 1
    execute(StandIn(), tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr(standin.Picture, "savefig", lambda self, path: full_disk(path))
    with pytest.raises(OSError, match="No space left"):
        execute(StandIn(), tmp_path / "run")
    assert contents(tmp_path / "run")["line.png"] == before["line.png"]


def test_a_picture_that_is_no_longer_drawn_goes(tmp_path):
    tmp_path.joinpath("old.png").touch()
    execute(StandIn(), tmp_path, own=True)
    assert [path.name for path in tmp_path.glob("*.png")] == ["line.png"]


def stopped(arguments, monkeypatch, does):
    """The last line of a command in which `does` is called instead of everything else."""
    monkeypatch.setattr(command_line, "dispatch", lambda *given: does())
    with pytest.raises(SystemExit) as end:
        command_line.main(f"recipes.{standin.NAME}", arguments)
    assert "\n" not in end.value.code
    return end.value.code


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("does", [interrupt, lambda: signal.raise_signal(signal.SIGTERM)])
@pytest.mark.parametrize(
    "arguments, told", [([], "rerun the command with --resume"), (["--search", "3"], "rerun the command to continue")]
)
def test_an_interrupt_anywhere_and_sigterm_end_in_one_line(arguments, told, does, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert told in stopped(arguments, monkeypatch, does)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_verification_ends_in_one_line_on_sigterm_too(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(commands, "verify", lambda name: signal.raise_signal(signal.SIGTERM))
    try:
        assert commands.main(["verify", standin.NAME]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupt_while_evaluating_loses_no_epoch(tmp_path):
    recipe, trained = StandIn(), []
    recipe.before_evaluation = interrupt
    with pytest.raises(KeyboardInterrupt):
        execute(recipe, tmp_path)
    again = StandIn()
    again.at_epoch = lambda *given: trained.append(given)
    assert execute(again, tmp_path, resume=True)["metrics"]["accuracy"] == 2.0 and not trained


@pytest.mark.parametrize("function", ["save", "show"])
def test_an_interrupt_while_saving_or_drawing_loses_nothing(function, tmp_path):
    before = execute(StandIn(), tmp_path)
    recipe, trained = StandIn(), []
    setattr(recipe, function, lambda *given: interrupt())
    with pytest.raises(KeyboardInterrupt):
        execute(recipe, tmp_path, seeds=(0, 1))
    assert results.read(tmp_path / "results.json") == before
    tmp_path.joinpath("model.txt").unlink(), tmp_path.joinpath("line.png").unlink()
    again = StandIn()
    again.at_epoch = lambda epoch, logs, agent: trained.append(agent)
    assert execute(again, tmp_path, seeds=(0, 1), resume=True)["figure"]["values"] == [2.0, 2.0]
    assert len(trained) == 2, "the first seed is trained again"
    assert {"model.txt", "line.png", "sum.txt"} < set(contents(tmp_path)) and not (tmp_path / "backup").exists()
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 2 * 2


def test_a_second_interrupt_while_the_first_one_saves_ends_in_one_line_too(tmp_path, monkeypatch):
    recipe = StandIn()
    recipe.at_epoch = lambda epoch, logs, agent: interrupt() if epoch == 1 else None
    monkeypatch.setattr(runs.Run, "rescue", lambda self, path: interrupt())
    assert "with --resume" in stopped([], monkeypatch, lambda: execute(recipe, tmp_path))
    assert execute(StandIn(), tmp_path, resume=True)["metrics"]["accuracy"] == 2.0


def test_output_that_nothing_reads_ends_in_one_line(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert "nothing reads the output; rerun the command with --resume" in stopped(
            [], monkeypatch, lambda: print("x")
        )


def test_a_full_disk_under_the_output_ends_in_one_line(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert "the disk is full" in stopped([], monkeypatch, lambda: print("x"))


def test_a_file_system_without_locks_stops_nothing(tmp_path, monkeypatch):
    def no_locks(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", no_locks)
    assert execute(StandIn(), tmp_path)["metrics"]["accuracy"] == 2.0


def test_a_closed_standard_output_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    output.prepare()
    callbacks.Progress().set_params({"epochs": 1, "steps": 1})  # It asks whether the output is a terminal.
    print("x")


def test_what_an_encoding_lacks_is_escaped_and_ends_nothing(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(command_line, "dispatch", lambda *given: print("0.9 ± 0.1"))
    command_line.main(f"recipes.{standin.NAME}", [])
    assert written.getvalue() == b"0.9 \\xb1 0.1\n"


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda logs, agent: logs.update(val_loss=float("nan")), "the val_loss is nan at the end of epoch 2"),
        (lambda logs, agent: logs.update(loss=float("inf")), "the loss is inf in step 1 of epoch 2"),
        (lambda logs, agent: agent.total.assign(float("nan")), "weights are NaN or infinite at the end of epoch 2"),
    ],
)
def test_what_diverges_in_the_last_epoch_is_never_kept(change, told, tmp_path):
    recipe = StandIn()
    recipe.at_epoch = lambda epoch, logs, agent: change(logs, agent) if epoch == 1 else None
    with pytest.raises(errors.RecipeError, match=f"^{told}: .*; epoch 1 is saved in "):
        execute(recipe, tmp_path)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "model.txt").exists()


@pytest.mark.parametrize("first, last, told", [(17, 20, "in steps 17 to 20"), (5, 5, "in step 5")])
def test_the_steps_named_are_those_of_the_execution(first, last, told):
    """Of sixteen steps at a time, the last execution has fewer, of which Keras knows nothing."""
    stop = callbacks.StopAtNaN()
    stop.set_params({"steps": 20})
    stop.on_epoch_begin(2)
    stop.on_train_batch_begin(first - 1)
    with pytest.raises(callbacks.Diverged, match=f"{told} of epoch 3"):
        stop.on_train_batch_end(31 if last == 20 else last - 1, {"loss": float("nan")})


def test_a_run_leaves_the_record_as_it_is_and_record_replaces_it(home, capsys):
    dispatch(StandIn(), "--seeds", "2")
    assert not contents(home)
    dispatch(StandIn(), "--record")
    recorded = contents(home)
    assert set(recorded) == {"results.json", "line.png", "sum.txt", "model.txt", "history.csv"}
    home.joinpath("old.png").touch()
    before, changed = contents(home), StandIn()
    changed.shown = {"sum": "another text"}
    capsys.readouterr()
    dispatch(changed, "--seeds", "3")
    assert contents(home) == before
    assert f"The record in {home} is unchanged" in capsys.readouterr().out
    dispatch(changed, "--record")
    assert contents(home)["sum.txt"] == b"another text\n" and "old.png" not in contents(home)
    assert results.read(home / "results.json")["seeds"] == [0, 1, 2]


def test_only_the_recipe_s_own_run_with_enough_seeds_becomes_the_record(home):
    with pytest.raises(errors.RecipeError, match=r"no finished run in .*run"):
        dispatch(StandIn(), "--record")
    dispatch(StandIn(), "--set", "rate=2")
    with pytest.raises(
        errors.RecipeError,
        match="only a run of .* with its default hyperparameters can become the record, not that in ",
    ):
        dispatch(StandIn(), "--set", "rate=2", "--record")
    dispatch(StandIn(), "--seeds", "2")
    dispatch(StandIn(), "--record")
    before = contents(home)
    shutil.rmtree(home / "run")
    dispatch(StandIn())
    with pytest.raises(errors.RecipeError, match="the record has 2 seeds, and the run in .* only 1"):
        dispatch(StandIn(), "--record")
    assert contents(home) == before


def test_the_files_of_a_later_run_do_not_become_the_record_of_an_earlier_one(home, capsys):
    dispatch(StandIn(), "--seeds", "2")
    dispatch(StandIn(), "--record")
    before = contents(home)
    capsys.readouterr()
    dispatch(StandIn(), "--seed", "7")
    assert "--record" not in capsys.readouterr().out
    with pytest.raises(errors.RecipeError, match="files of a later run than its results"):
        dispatch(StandIn(), "--record")
    dispatch(StandIn(), "--seeds", "2")
    unfinished = StandIn()
    unfinished.at_epoch = lambda epoch, logs, agent: interrupt() if epoch == 1 else None
    with pytest.raises(KeyboardInterrupt):
        dispatch(unfinished, "--seeds", "2")
    with pytest.raises(errors.RecipeError, match="files of a later run than its results"):
        dispatch(StandIn(), "--record")
    assert contents(home) == before


def test_a_run_that_was_stopped_at_once_does_not_replace_the_backup_of_a_longer_one(tmp_path):
    recipe = StandIn()
    for stop_at in (1, 0, 0):
        recipe.at_epoch = lambda epoch, logs, agent, stop_at=stop_at: interrupt() if epoch == stop_at else None
        with pytest.raises(KeyboardInterrupt):
            execute(recipe, tmp_path)
    (tmp_path / "backup").rename(tmp_path / "backup-empty")
    (tmp_path / "backup-previous").rename(tmp_path / "backup")
    trained, again = [], StandIn()
    again.at_epoch = lambda epoch, *given: trained.append(epoch)
    execute(again, tmp_path, resume=True)
    assert trained == [1]


def test_an_equal_run_keeps_the_variants(home):
    dispatch(StandIn())
    dispatch(StandIn(), "--variants")
    dispatch(StandIn(), "--record")
    dispatch(StandIn())
    for directory in (home / "run", home):
        assert results.read(directory / "results.json")["variants"]["fast"]["metrics"]["accuracy"] == 4.0


def test_variants_are_compared_with_the_record_where_there_is_no_run(home):
    measured = execute(StandIn(), home / "run")
    results.record(measured, home)
    before = contents(home)
    (home / "run" / "results.json").unlink()
    dispatch(StandIn(), "--variants")
    assert contents(home) == before, "the record itself is changed by --record alone"
    dispatch(StandIn(), "--record")
    assert "fast" in results.read(home / "results.json")["variants"]


def test_a_run_s_model_is_tried_before_the_record_s(home, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "common.cookbook.trying.try_model", lambda entry, recipe, directory, *given: tried.append(directory)
    )
    dispatch(StandIn(), "--try", "1+1")
    files.write_text(home / "run" / "model.keras", "")
    dispatch(StandIn(), "--try", "1+1")
    dispatch(StandIn(), "--tiny", "--try", "1+1")
    assert tried == [home, home / "run", home / "tiny"]


def test_epochs_and_examples_of_the_command_line_hold_for_variants(home):
    recipe = StandIn()
    recipe.VARIANTS = {"long": {"epochs": 5, "rate": 2.0}}
    dispatch(recipe, "--tiny")
    dispatch(recipe, "--tiny", "--variants")
    assert results.read(home / "tiny" / "results.json")["variants"]["long"]["metrics"]["accuracy"] == 2.0


def test_seeds_count_from_the_first_one_that_is_given(home):
    dispatch(StandIn(), "--seed", "5", "--seeds", "2")
    assert results.read(home / "run" / "results.json")["seeds"] == [5, 6]


def test_values_of_the_command_line_hold_for_variants_that_do_not_change_them(home):
    recipe = StandIn()
    recipe.VARIANTS = {"long": {"epochs": 5}, "fast": {"rate": 2.0}}
    dispatch(recipe, "--set", "rate=3")
    dispatch(recipe, "--set", "rate=3", "--variants")
    found = results.read(home / "rate=3.0" / "results.json")["variants"]
    assert {name: each["metrics"]["accuracy"] for name, each in found.items()} == {"long": 15.0, "fast": 4.0}
    assert {name: each["values"] for name, each in found.items()} == recipe.VARIANTS


def test_verify_goes_on_where_it_was_stopped(home):
    dispatch(StandIn())
    dispatch(StandIn(), "--record")
    recipe, trained = StandIn(), []
    recipe.at_epoch = lambda epoch, logs, agent: interrupt() if epoch == 1 else None
    with pytest.raises(KeyboardInterrupt, match="epoch 1 is saved in"):
        runs.verify(catalogue.entry(standin.NAME), recipe)
    recipe.at_epoch = lambda epoch, *given: trained.append(epoch)
    assert runs.verify(catalogue.entry(standin.NAME), recipe) and trained == [1]


@pytest.mark.parametrize("damaged", ["backup/identity.json", "backup/seed-0/agent.npz"])
def test_verify_goes_past_what_is_damaged(damaged, home, capsys):
    execute(StandIn(), home)
    recipe = StandIn()
    recipe.at_epoch = lambda epoch, logs, agent: interrupt() if epoch == 1 else None
    with pytest.raises(KeyboardInterrupt):
        runs.verify(catalogue.entry(standin.NAME), recipe)
    (home / "verify" / damaged).write_bytes(b"{")
    assert runs.verify(catalogue.entry(standin.NAME), StandIn())
    assert "damaged; this one starts from the beginning" in capsys.readouterr().out


def test_a_damaged_record_does_not_spoil_the_end_of_a_run(home, capsys):
    home.mkdir()
    (home / "results.json").write_bytes(b"{")
    dispatch(StandIn())
    assert "--record` makes this run the record" in capsys.readouterr().out


def test_verify_starts_anew_if_the_recipe_has_changed_since_it_was_stopped(home):
    dispatch(StandIn())
    dispatch(StandIn(), "--record")
    old = {"recipe": standin.NAME, "hyperparameters": {"rate": 5.0}, "seeds": [0]}
    files.write_json(home / "verify" / "backup" / "identity.json", old)
    assert runs.verify(catalogue.entry(standin.NAME), StandIn())


def test_a_hyperparameter_that_is_no_more_is_named():
    told = runs.difference("hyperparameters", {"gone": 1, "rate": 1.0}, {"rate": 2.0})
    assert told == "gone=1, not None; rate=1.0, not 2.0: use the same --set"


def test_an_interrupt_while_modules_are_imported_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(command_line, "import_tensorflow_quietly", lambda: None)
    command_line.prepare(["python", "-m", f"recipes.{standin.NAME}"])
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped before anything was done\n"
    sys.excepthook(ValueError, ValueError("wrong"), None)
    assert capsys.readouterr().err == "ValueError: wrong\n"
