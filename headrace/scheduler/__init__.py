"""The training loop of `headrace up`: waits for verdicts, runs a round with each recipe, and watches canaries.

    backlog          verdicts waiting, per recipe
    scheduler        what to do next: a round, a canary check, or nothing for a while
    status           the loop's status, a file in the home that the page and `headrace loop` read
    lease            which loop trains when several share one installation
    process          the loop's process, started, watched and ended by `headrace up`
    landing_thread   landing, in a thread of `headrace up`
    triggers         what is done when something happens

It runs in its own process at low priority (`python -m headrace.scheduler`), so that it does not slow answers down.
"""
