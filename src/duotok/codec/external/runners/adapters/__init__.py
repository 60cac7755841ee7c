"""How each tokenizer is loaded and asked, a small file each; written from its public code."""
