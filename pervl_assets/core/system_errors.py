"""Every error number of the operating system, with a reason and advice."""

import errno
import os
import re
from collections.abc import Mapping
from typing import Final

from pervl_assets.core.addresses import Place

_NUMBER: Final = re.compile(r"\(os error (\d+)\)")
_REASONS: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full (the quota is used up)",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.EEXIST: "there is a file where a folder is needed",
    errno.EISDIR: "there is a folder where a file is needed",
    errno.ENAMETOOLONG: "the name or path is too long",
}
_ADVICE: Final[Mapping[str, tuple[int, ...]]] = {
    "Free some space, or set PERVL_DATA to a larger disk, and run again; finished work is kept.": (
        errno.ENOSPC,
        errno.EDQUOT,
    ),
    "Allow larger files (ulimit -f), or set PERVL_DATA to a disk that can hold files of that size.": (errno.EFBIG,),
    "Make the folder writable (an input: readable) for this user, or set PERVL_DATA to another one ({where}).": (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ),
    "Move it away, or set PERVL_DATA to another folder.": (
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOTEMPTY,
    ),
    "Set PERVL_DATA to a folder with a shorter path, or on a file system that allows longer names.": (
        errno.ENAMETOOLONG,
    ),
    "Allow more open files (ulimit -n), or set PERVL_WORKERS to fewer, and run again; finished work is kept.": (
        errno.EMFILE,
        errno.ENFILE,
    ),
    "Free memory, or set PERVL_WORKERS to fewer, and run again; finished work is kept.": (errno.ENOMEM, errno.EAGAIN),
    "Another program uses it, or a disk is mounted there: end that program or unmount the disk, then run again.": (
        errno.EBUSY,
        errno.ETXTBSY,
    ),
    "This file system cannot do that: set PERVL_DATA to a folder on another one.": (
        errno.EXDEV,
        errno.EINVAL,
        errno.EILSEQ,
        errno.EMLINK,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
    ),
}
_CHECK_DISK: Final = "Check that {where} exists, and the disk or mount it is on. Then run again: finished work is kept."


def describe_system_error(error: OSError, path: Place | None, problem: str) -> tuple[str, str]:
    """Return what went wrong and what to do.

    Args:
        error: As raised by Python, or by polars, which states the number in its text only.
        path: File or folder at work, for an error that names none.
        problem: Template with `{where}` and `{reason}`.
    """
    in_text = _NUMBER.search(str(error))
    number = error.errno or (int(in_text[1]) if in_text else 0)
    named = error.filename if isinstance(error.filename, str | os.PathLike) else None
    reason = _REASONS.get(number) or (os.strerror(number) if number else str(error) or type(error).__name__)
    advice = next((advice for advice, numbers in _ADVICE.items() if number in numbers), _CHECK_DISK)
    where = named or path
    return problem.format(where=where or "A file", reason=reason), advice.format(where=where or "the file")
