"""A kit: one folder that trains on a machine without network, and the way of its results back (docs/kit.md)."""
