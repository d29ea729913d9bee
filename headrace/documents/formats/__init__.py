"""Source bytes to Markdown, one module per format; everything here but `Limits` runs in a process of its own.

To add a format: name it in `kind.py`, write its text to an `Output` in a module of its own, and list that in `worker.py`.
"""
