"""The sub-commands of `benchmark.py`."""
