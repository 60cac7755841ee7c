"""Errors meant for people: one line that names the file or value, and the remedy."""

import errno
import os

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system calls a full disk, or a quota that is used up."""
_REMEDIES = {
    **dict.fromkeys(FULL, "make room there, then run the same command again"),
    errno.EFBIG: "choose a place that takes larger files, or raise the limit (ulimit -f)",
    errno.EROFS: "choose another place",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions, or choose another place"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is in the way; remove it, or choose another place"),
    errno.EISDIR: "give a file, or choose another name",
    errno.ENOENT: "check the name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a link to itself; choose another name",
    errno.EMFILE: "allow more open files (ulimit -n), or fewer workers",
    **dict.fromkeys(
        (errno.EAGAIN, errno.ENOMEM),
        "take fewer --workers, or raise the limits of processes and memory (ulimit -u, -v)",
    ),
    errno.EIO: "the disk or the network may be failing; try again, or choose another place",
}


class DuoTokError(Exception):
    """A user's mistake or a damaged input. The command line prints it in one line and exits with 1."""


class AudioError(DuoTokError):
    """Sound that cannot be read or written."""


class TokenFileError(DuoTokError):
    """A token file that is damaged, foreign or of another version."""


class BundleError(DuoTokError):
    """A model bundle that is incomplete, damaged or does not fit the tokens."""


class ConfigError(DuoTokError):
    """A configuration with an unknown key or a value out of range."""


class MetricError(DuoTokError):
    """Scores from which no figure can be computed."""


class MissingExtraError(DuoTokError):
    """An optional dependency is not installed."""


def one_line(error: BaseException, most: int | None = 120) -> str:
    """What a library's error says, without line breaks and in at most so many characters; its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def of_system(error: OSError) -> str:
    """An error of the system as one line: the file, what is wrong with it, and what helps, where that is known."""
    remedy = _REMEDIES.get(error.errno or 0, "")
    # Libraries say it in their own, longer words, which may be all that names the file.
    plain = error.errno and error.filename and remedy
    reason = os.strerror(error.errno or 0) if plain else error.strerror or one_line(error)
    return f"{error.filename or 'system'}: {reason}" + (f"; {remedy}" if remedy else "")
