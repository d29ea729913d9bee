"""Scaling: what N workers would do and ask of storage, predicted from what a run of few workers measured."""
