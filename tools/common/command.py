"""Ends a command after a user's mistake or Ctrl-C with a message and an exit code, without a traceback."""

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable

from errors import Interrupted, UserError
from tools.common import processes


def run_command(main: Callable[[], object]) -> None:
    """Calls a script's `main`. Exits with the error's code: 2 a mistake, 1 a failed run, 130 Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers send it before they kill
    _write_all_names()
    try:
        processes.connect()
        main()
        processes.leave()
    except UserError as error:
        if processes.may_speak():
            print(f"\n{error}", file=sys.stderr)
        _exit(error.exit_code)
    except KeyboardInterrupt:
        if processes.may_speak():
            print("\nInterrupted.", file=sys.stderr)
        _exit(Interrupted.exit_code)
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(1)
    except Exception:
        if not processes.launched():
            raise
        traceback.print_exc()
        _exit(1)


def _write_all_names() -> None:
    """Names that the terminal or pipe cannot encode are written as escapes, such as \\xe9. By default Python raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit(code: int) -> None:
    """Ends this process. One of several does not wait for what they have begun together."""
    sys.stdout.flush()
    sys.stderr.flush()
    processes.before_exit()
    os._exit(code) if processes.launched() else sys.exit(code)
