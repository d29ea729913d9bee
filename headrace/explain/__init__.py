"""Explains a pipeline as a run measured it, or as it is declared before the first run: `diagram/`."""
