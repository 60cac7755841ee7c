"""Splits of about given sizes that cut no identity."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from duotok.records import Split

SHARES: dict[Split, float] = {"train": 0.6, "validation": 0.15, "test": 0.25}


def balanced(identity_of: Mapping[str, str], shares: Mapping[Split, float] = SHARES) -> dict[str, Split]:
    """Item -> split, from item -> identity. The largest identities go first, each to the split that lacks most; equal ones in the
    order of a hash of their name. A function of the names alone, whatever their order."""
    sizes = Counter(identity_of.values())
    order = sorted(sizes, key=lambda identity: (-sizes[identity], hashlib.sha256(identity.encode()).hexdigest()))
    filled = dict.fromkeys(shares, 0)
    split_of: dict[str, Split] = {}
    for identity in order:
        lacking = max(shares, key=lambda split: shares[split] * len(identity_of) - filled[split])
        split_of[identity] = lacking
        filled[lacking] += sizes[identity]
    return {item: split_of[identity] for item, identity in identity_of.items()}
