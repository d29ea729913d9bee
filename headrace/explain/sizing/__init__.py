"""Sizing: the capacity and bandwidth each storage tier needs, from public formulas and a few parameters."""
