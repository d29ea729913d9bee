"""Diagrams of a pipeline as measured by a run, in SVG, PNG or Markdown.

In `diagram/`:

    diagram               the model: stages, stores and the bytes between them, from a run's journal
    arrange, layout       positions of all parts, as a scene of shapes and text
    svg, draw             output as SVG, PNG or Markdown; `draw` chooses by the file's suffix
"""
