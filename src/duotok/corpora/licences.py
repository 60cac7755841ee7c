"""The class of a licence, from the many ways in which corpora write it."""

from __future__ import annotations

import re
from typing import Literal, get_args

LicenceClass = Literal[
    "public-domain", "attribution", "share-alike", "no-derivatives", "non-commercial", "restricted", "unknown"
]
LICENCE_CLASSES: tuple[LicenceClass, ...] = get_args(LicenceClass)

# Searched in this order in the text as lower-case words separated by one space: the strictest class wins.
_SIGNS: tuple[tuple[LicenceClass, str], ...] = (
    (
        "non-commercial",
        r"\b(nc|non ?commercial(ly)?|(no|not|not for) commercial|(academic|educational|private) (use|purposes?))\b",
    ),
    (
        "restricted",
        r"\b(restricted|rights reserved|proprietary|download only|sampling( plus\b| ?\+)|research (only|use|purposes?)"
        r"|personal use|permission|copyrighted)",
    ),
    ("no-derivatives", r"\b(nd\b|no ?deriv)"),
    ("share-alike", r"\b(by sa|sa( \d|$)|share ?alike|[al]?gpl(v?\d+)?|gfdl|odbl|free art|copyleft|eupl)\b"),
    (
        "attribution",
        r"\bcc by\b|\blicenses by\b|\b(oga|odc) by\b|\bcc attribution\b|^by( \d|$)|^attribution( \d| international|$)"
        r"|^(mit|isc|apache|bsd)( license| licence| \d|$)",
    ),
    ("public-domain", r"\bcc ?0\b|\bcc zero\b|\bpublic ?domain\b|\bpdm\b|^pd$|\bpddl\b|\bunlicense\b|^wtfpl$"),
)
# Words that deny or limit the licence that a text names.
_DOUBT = re.compile(
    r"\b(not|isn t|never)( in)?( the)? (public ?domain|cc|cc ?0|licensed)\b|commerci|kommerzi|comercial|\bnon ?(comm|profit)|\bn c\b"
    r"|\bexcept|prohibit|forbidden|commons clause|\b(evaluation|educational|research)\b|\b(us|usa|states|metadata) only\b"
)


def licence_class(text: str) -> LicenceClass:
    """The class of a licence: names as in INDEX.tsv, FMA and Jamendo, SPDX names, Creative Commons URLs.

    If a text names several, the strictest counts, "non-commercial" before all. An unrecognized text is "unknown", never
    something freer.
    """
    words = " ".join(re.findall(r"[a-z0-9]+\+?", text.lower()))
    words = re.sub(r"\bcreative ?commons( org)?\b", "cc", words)
    doubtful = _DOUBT.search(words) is not None
    for name, signs in _SIGNS:
        if re.search(signs, words):
            return "unknown" if doubtful and name not in ("non-commercial", "restricted") else name
    return "unknown"
