"""The one exception that reaches the person at the keyboard, and how a command ends with it.

Everything a user can mend (a flag, a file, a folder) is raised as `UserError` with one line that
says what is wrong, why, and what to do. Commands print that line to stderr and exit with 2;
anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 42  # saved after SIGTERM or a preemption notice: start the same command again
EXIT_NON_FINITE = 3  # training stopped on a non-finite loss; the last good checkpoint is kept


class UserError(Exception):
    """A problem the user can mend; its text is one line: what, why, what to do."""

    exit_code = EXIT_USER_ERROR


class LostHostError(UserError):
    """Another host of the run has gone. The process ends without waiting for it once more.

    What libraries do at a process's end would: JAX meets all hosts there, and aborts after a hundred seconds.
    """


def one_line(error: BaseException) -> str:
    """The error's text folded to a single line (a file name may hold a newline)."""
    return " ".join(str(error).split())


def warn(text: str) -> None:
    """One line on stderr about what goes on all the same."""
    print(f"tfaclgan: warning: {text}", file=sys.stderr, flush=True)


def run_command(command: Callable[[], int | None], program: str) -> int:
    """Runs a command's body; returns its exit code, turning `UserError` into one line on stderr."""
    try:
        return command() or EXIT_OK
    except UserError as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        if isinstance(error, LostHostError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        # Full disks, unwritable folders, vanished files: the system's own words and the path are enough.
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"{program}: error: {error.strerror or one_line(error)}{where}; "
            "check the path, its permissions and the free space, then run the command again",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
