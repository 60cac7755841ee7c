"""What was measured of tokenizers as one page, beside the paper's tables and figures."""
