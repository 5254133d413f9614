"""How a command ends when its user made a mistake: with a message and an exit code, without a traceback."""

import sys
from collections.abc import Callable

from errors import Interrupted, UserError


def run_command(main: Callable[[], object]) -> None:
    """Calls a script's `main`; exits with the error's code (2 a mistake, 1 a failed run, 130 Ctrl-C)."""
    try:
        main()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
