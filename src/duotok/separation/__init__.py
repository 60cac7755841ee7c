"""A mix to vocals and accompaniment: one interface, several separators; teacher masks."""

from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.choose import SEPARATORS, separator_by_name
from duotok.separation.chunked import ChunkedSeparator
from duotok.separation.separator import GivenStems, MiniSeparator, Separator
from duotok.tracks import STEMS

__all__ = [
    "SEPARATORS",
    "STEMS",
    "BSRoFormer",
    "BSRoFormerConfig",
    "ChunkedSeparator",
    "GivenStems",
    "MiniSeparator",
    "Separator",
    "separator_by_name",
]
