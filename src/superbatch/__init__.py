"""Superbatch: train large vision models on data that small models choose."""

__version__ = "0.1.0.dev0"
