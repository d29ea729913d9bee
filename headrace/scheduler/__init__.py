"""The training loop of `headrace up`: it waits for verdicts, makes a turn with each recipe, and watches what is on trial.

    due        how many verdicts wait for which recipe
    loop       what is done next: a turn, a look at a trial, or nothing for a while
    status     what it tells, as one file in the home that the page and `headrace loop` read
    seat       who trains, where several loops share one installation
    keeper     the process it runs in, as `headrace up` starts it, watches it and ends it
    landing    the head into the tables, in a thread of `headrace up`

It runs in a process of its own at a low priority (`python -m headrace.scheduler`), so that answering is not slowed.
"""
