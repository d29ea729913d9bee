"""The training loop of `headrace up`: it waits for verdicts, makes a round with each recipe, and watches canaries.

    backlog          how many verdicts wait for which recipe
    scheduler        what is done next: a round, a look at a canary, or nothing for a while
    status           what it tells, as one file in the home that the page and `headrace loop` read
    lease            who trains, where several loops share one installation
    process          the process it runs in, as `headrace up` starts it, watches it and ends it
    ingest_thread    the head into the tables, in a thread of `headrace up`

It runs in a process of its own at a low priority (`python -m headrace.scheduler`), so that answering is not slowed.
"""
