"""Locks between processes. Some file systems have none: Lustre without its option `flock`, some NFS."""

import errno
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from filelock import FileLock

# What flock fails with where there are no locks. A lock that is taken has other errors, which filelock waits for.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def locked(file: Path, seconds: float = -1) -> AbstractContextManager[FileLock | None]:
    """The lock of a file, held until the context ends; a context of None where the file system has no locks.

    filelock's own way out, a file that exists while the lock is held, is not used: a process that was killed on another
    machine would hold such a lock for ever.

    Args:
        seconds: how long to wait for another process; negative: without a limit.

    Raises:
        filelock.Timeout: another process holds the lock.
        OSError: the file cannot be made.
    """
    try:
        return FileLock(file, fallback_to_soft=False).acquire(timeout=seconds)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return nullcontext()
