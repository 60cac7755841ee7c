"""Listening tests: built from folders of sounds or from tokenizers, taken in a browser, told with intervals (docs/listening.md)."""
