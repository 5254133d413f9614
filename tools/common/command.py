"""How a command ends when its user made a mistake or pressed Ctrl-C: with a message and an exit code, no traceback.

Scripts import this first: PyTorch takes seconds to import, and Ctrl-C may come then, too.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from errors import Interrupted, UserError
from tools.common import processes


def _interrupted(kind, error, traceback) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, traceback)
    if processes.may_speak():
        print("\nInterrupted.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Interrupted.exit_code)


sys.excepthook = _interrupted
if not processes.is_first():  # one of several tells how far they are
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os.environ["TQDM_DISABLE"] = "1"


def run_command(main: Callable[[], object]) -> None:
    """Calls a script's `main`; exits with the error's code (2 a mistake, 1 a failed run, 130 Ctrl-C or SIGTERM)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what schedulers send before they kill
    try:
        processes.connect()
        main()
        processes.leave()
    except UserError as error:
        if processes.may_speak():
            print(f"\n{error}", file=sys.stderr)
        _exit(error.exit_code)
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(1)
    except Exception:
        if not processes.launched():
            raise
        traceback.print_exc()
        _exit(1)


def _exit(code: int) -> None:
    """Ends this process; one of several without waiting for what they have begun together."""
    sys.stdout.flush()
    sys.stderr.flush()
    processes.before_exit()
    os._exit(code) if processes.launched() else sys.exit(code)
