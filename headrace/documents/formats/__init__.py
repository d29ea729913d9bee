"""Source bytes to Markdown, one module per format. All but the limits and the registry runs in a process of its own.

To add a format: its writer in a module of its own, and a record in `registry.py`.
"""
