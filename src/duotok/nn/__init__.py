"""Tensor arithmetic that tokenizer, renderer and separator share: rotary positions, masks, attention, precision.

What only looks the same stays with its model, because weights were trained with it: the gated feed-forward of the tokenizer
has the gate in its first half and an exact GELU, that of the renderer the gate in its second half and the tanh form; the two
RMS norms of the separators differ in what keeps them from dividing by zero, which quiet bands feel; a padded query of the
renderer sees itself, one of the tokenizer the valid frames. The three mask estimators (`model/heads.py`,
`separation/bs_roformer.py`, `separation/published.py`) are one idea, a tanh layer and a gated linear unit for each band, with
weights laid out in three ways: bands of one width in one product, hidden layers of all bands in one product with value and gate
side by side, one small network for each stem and band. Beyond the gate itself no line of arithmetic is the same.
"""
