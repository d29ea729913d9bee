"""The diagram of a pipeline: computed from a run, drawn as SVG, PNG or Markdown."""
