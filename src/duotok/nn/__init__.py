"""Tensor arithmetic that tokenizer, renderer and separator share: rotary positions, masks, attention, precision.

What only looks the same stays with its model, because weights were trained with it: the gated feed-forward of the tokenizer
has the gate in its first half and an exact GELU, that of the renderer the gate in its second half and the tanh form; the two
RMS norms of the separators differ in what keeps them from dividing by zero, which quiet bands feel; a padded query of the
renderer sees itself, one of the tokenizer the valid frames.
"""
