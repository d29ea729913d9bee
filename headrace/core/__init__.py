"""Stages, pipelines, the runner that gives each stage its metered handles, and the run they are recorded in."""
