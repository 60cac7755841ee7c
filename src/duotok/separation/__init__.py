"""A mix to vocals and accompaniment: one interface, several separators; teacher masks."""

from duotok.separation.bs_roformer import STEMS, BSRoFormer, BSRoFormerConfig
from duotok.separation.separator import GivenStems, MiniSeparator, Separator

__all__ = ["STEMS", "BSRoFormer", "BSRoFormerConfig", "GivenStems", "MiniSeparator", "Separator"]
