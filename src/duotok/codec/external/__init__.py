"""Tokenizers that run in an environment of their own: facts of each, and the codec that exchanges files with it."""
