"""A search by several processes: the environment variables that tell KerasTuner which one this is, and the network."""

import os
import socket

from common.cookbook import errors

VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def role():
    """What this process is in the search: "alone", "chief" or "worker".

    Raises:
        errors.RecipeError: some of the variables are missing, or the port is none.
    """
    if not any(name in os.environ for name in VARIABLES):
        return "alone"
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise errors.RecipeError(
            f"{' and '.join(missing)} must be set too: several processes search together if all of "
            f"{', '.join(VARIABLES)} are set, and this one searches alone if none is"
        )
    tuner, _, port = (os.environ[name] for name in VARIABLES)
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise errors.RecipeError(f"KERASTUNER_ORACLE_PORT={port} is not a port: choose a number from 1 to 65535")
    return "chief" if "chief" in tuner else "worker"


def address():
    """Where the chief listens, "127.0.0.1:8000"."""
    return ":".join(os.environ[name] for name in VARIABLES[1:])


def check_port():
    """Makes sure that the chief can listen at its address; gRPC would share the port with another chief in silence.

    Raises:
        errors.RecipeError: another process listens there, or it is no address of this machine.
    """
    _, host, port = (os.environ[name] for name in VARIABLES)
    try:
        socket.create_server((host, int(port))).close()
    except OSError as error:
        reason = error.strerror.split(" (")[0]  # Python adds the address in brackets.
        raise errors.RecipeError(
            f"the chief can't listen at {address()}: {reason}; give all processes of the search another "
            "KERASTUNER_ORACLE_PORT, or an address of this machine as KERASTUNER_ORACLE_IP"
        ) from None
