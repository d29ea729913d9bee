"""Core: stages and pipelines, the runner that gives stages their metered handles, and the journal of runs.

stage                      a stage: a function whose first parameters name its stores
runner                     gives a stage the handles in its signature
run, rates                 a run, its journal in the home, and its rates
launch, peers              batch work and training functions on this machine; workers that train together
ray_cluster, ray_runner    the same on Ray; `ray_watchdog` tidies up after a cluster
maintain                   the stage that maintains the tables
progress                   progress on the terminal
statistics, schema, clock  intervals and percentiles; stored JSON; a clock that was set forward
"""
