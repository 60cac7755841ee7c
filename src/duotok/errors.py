"""Errors meant for people: one line that names the file or value, and the remedy."""


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
