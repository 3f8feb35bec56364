"""One run at a time in a directory."""

import contextlib
import os

from common.cookbook import errors

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, nothing keeps two runs apart.
    fcntl = None


@contextlib.contextmanager
def locked(directory):
    """Holds a directory for one run; the system releases it when the process ends, however it ends.

    Raises:
        errors.RecipeError: another run holds the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "a+", encoding="utf-8") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise errors.RecipeError(
                f"a run is in progress in {directory}, process {file.read().strip()}: "
                "wait until it ends, or choose another --out"
            ) from None
        except OSError:  # As on Windows: some network file systems have no locks.
            pass
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield
