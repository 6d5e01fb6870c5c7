"""The paper's claims, one command each: ``python benchmarks/paper --list``."""
