"""The diagram of a pipeline, at two levels of detail and in three views.

From a run to a file, in the order of use:

    recorded              the pipelines, and the choice of the run
    flow, diagram         the model: stages, the bytes between them and stores, times; `headline` is what it says
    slide                 the same at slide level: guest-facing titles, small flows gathered
    views                 which scene is drawn for a view and a level
    layout, time_view     the scenes; `arrange` (order, rows), `geometry`, `time_axis` (positions), `title`, `foot`, `ray_view`
    scene, theme          shapes and text with measured extents; colours and font; `format` writes numbers with units
    svg, pdf, pptx, markdown, draw     the backends; `draw` chooses by the file's suffix
"""
