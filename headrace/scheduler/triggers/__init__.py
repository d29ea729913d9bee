"""Triggers: what `headrace up` does when something happens.

Events are found in the tables, queued in the metadata store, and delivered at least once.
"""
