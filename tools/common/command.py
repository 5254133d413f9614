"""How a command ends when its user made a mistake or pressed Ctrl-C: with a message and an exit code, no traceback.

Scripts import this first: PyTorch takes seconds to import, and Ctrl-C may come then, too.
"""

import os
import sys
from collections.abc import Callable

from errors import Interrupted, UserError


def _interrupted(kind, error, traceback) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, traceback)
    print("\nInterrupted.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Interrupted.exit_code)


sys.excepthook = _interrupted


def run_command(main: Callable[[], object]) -> None:
    """Calls a script's `main`; exits with the error's code (2 a mistake, 1 a failed run, 130 Ctrl-C)."""
    try:
        main()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
