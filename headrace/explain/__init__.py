"""Explains pipelines and platforms to people, from what a run measured.

diagram                  a pipeline as a picture: storage, time, Ray
deck                     slides
sizing                   what each tier must hold and move
scaling                  what N workers would do
kv                       the KV cache: replays of traces, engines' configuration
acceptance               the report of `headrace check` as a document
model_card, croissant, openlineage    a model, a dataset and a run in the formats that others read
"""
