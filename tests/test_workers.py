"""Searches by several processes: what a chief and its workers say before and instead of waiting."""

import socket

import grpc
import keras_tuner
import pytest
from keras_tuner.src.distribute import oracle_chief, oracle_client
from test_search import Formula, run

from common.cookbook import errors, search, workers


def test_without_the_variables_a_process_searches_alone(monkeypatch):
    for name in workers.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert workers.role() == "alone"


@pytest.fixture
def become(monkeypatch):
    """A function that makes this process a chief or a worker; without a chief, a worker waits for a moment only."""
    monkeypatch.setattr(oracle_client, "TIMEOUT", 0.1)

    def become(tuner, address="127.0.0.1", port=None):
        for name, value in zip(workers.VARIABLES, (tuner, address, str(port or free_port()))):
            monkeypatch.setenv(name, value)

    return become


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def served(monkeypatch):
    """The oracles that a chief has served; it does not wait for workers."""
    oracles = []
    monkeypatch.setattr(oracle_chief, "start_server", oracles.append)
    return oracles


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"KERASTUNER_ORACLE_IP": ""}, "^KERASTUNER_ORACLE_IP must be set too"),
        ({"KERASTUNER_ORACLE_IP": None, "KERASTUNER_ORACLE_PORT": None}, "_IP and KERASTUNER_ORACLE_PORT must be set"),
        ({"KERASTUNER_TUNER_ID": None}, "^KERASTUNER_TUNER_ID must be set too"),
        ({"KERASTUNER_ORACLE_PORT": "eight"}, "^KERASTUNER_ORACLE_PORT=eight is not a port"),
        ({"KERASTUNER_ORACLE_PORT": "65536"}, "^KERASTUNER_ORACLE_PORT=65536 is not a port"),
    ],
)
def test_variables_that_are_missing_or_wrong_are_told_in_one_line(changes, told, become, served, monkeypatch, tmp_path):
    become("worker-0")
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    recipe = Formula()
    with pytest.raises(errors.RecipeError, match=f"{told}[^\n]*$"):
        run(recipe, tmp_path)
    assert not recipe.trained and not list(tmp_path.iterdir())


def test_a_worker_without_a_chief_says_so(become, tmp_path, capsys):
    become("worker-0")
    with pytest.raises(
        errors.RecipeError, match=r"^the chief at 127.0.0.1:\d+ does not answer \([^\n]*start it[^\n]*$"
    ):
        run(Formula(), tmp_path)
    assert "Waiting for the chief at 127.0.0.1:" in capsys.readouterr().out


def test_a_port_in_use_and_an_address_of_another_machine_are_told(become, served, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        become("chief", port=taken.getsockname()[1])
        with pytest.raises(
            errors.RecipeError, match="^the chief can't listen at [^\n]*: Address already in use; [^\n]*$"
        ):
            run(Formula(), tmp_path)
    become("chief", address="192.0.2.1")  # No machine has it: it is for documentation.
    with pytest.raises(errors.RecipeError, match="^the chief can't listen at 192.0.2.1:[^\n]*$"):
        run(Formula(), tmp_path)
    assert not served


def test_a_restarted_chief_says_what_is_done_and_waits_only_for_what_is_left(become, served, tmp_path, capsys):
    run(Formula(), tmp_path, trials=2)
    capsys.readouterr()
    become("chief")
    run(Formula(), tmp_path, trials=2)
    told = capsys.readouterr().out
    assert "nothing is run again" in told and "Best: trial" in told and not served
    become("worker-0")
    run(Formula(), tmp_path, trials=2)
    told = capsys.readouterr().out
    assert "nothing is run again" in told and "Best: trial" not in told
    become("chief")
    run(Formula(), tmp_path, trials=3)
    told = capsys.readouterr().out
    assert "2 of 3 trials are done; " in told and "Waiting for workers at 127.0.0.1:" in told and len(served) == 1


def test_a_trial_that_ends_while_the_chief_is_away_does_not_count_as_failed(become, monkeypatch):
    class NoAnswer(grpc.RpcError):
        def details(self):
            return "connection refused"

    def update(*given):
        raise NoAnswer

    become("worker-0", port=8000)
    monkeypatch.setattr(keras_tuner.Tuner, "_run_and_update_trial", update)
    with pytest.raises(keras_tuner.errors.FatalError, match="^the chief at 127.0.0.1:8000 does not answer"):
        search.Search._run_and_update_trial(object.__new__(search.Search), None)
