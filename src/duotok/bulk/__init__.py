"""Songs by the million to token shards: `duotok tokenize` (docs/bulk.md)."""
