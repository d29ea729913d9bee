"""Metered storage handles, one module per tier. Every byte of a tier goes through them.

Storage knows nothing about stages. The metadata store (`metadata.py`) is in no tier and is not metered.
"""
