"""Scripts that run inside the environments of other tokenizers, and import nothing of DuoTok."""
