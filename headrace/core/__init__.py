"""Core: stages and pipelines, the runner that gives stages their metered handles, and the journal of runs."""
