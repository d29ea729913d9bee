"""Draws what a run measured: the diagram (the diagram of a pipeline), as SVG, PNG or Markdown.

In `diagram/`:

    diagram               what is drawn: stages, stores and the bytes between them, from a run's journal
    arrange, layout       where each part of it goes, as a scene of shapes and text
    svg, png, markdown    the scene, or the diagram, written out; `draw` chooses by a file's suffix
"""
