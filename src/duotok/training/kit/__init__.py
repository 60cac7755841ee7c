"""A kit: one folder that trains on a machine without network, and the transfer of its results back (docs/kit.md)."""
