"""Acceptance test of a storage platform: does it keep the promises that Headrace relies on?

Each tier's module (`objects`, `head`, `catalog`, `files`, `vectors`) has its promises: functions that test one in a sandbox and
return a measurement, or raise `Broken`. To add a promise, add a function to its module's `PROMISES`. The subject is the storage,
so the clients are the libraries that Headrace uses, without its own handles. `acceptance.check_storage` runs all of them, and the
workloads.

    acceptance, promise           the whole check; what a promise and its finding are
    objects, head, catalog, files, vectors    the promises of each tier
    workloads                     what is driven over each tier, for rates and latencies
    peer                          a second process, for promises about two
    report, provenance            the report; what was checked, from where, and by which versions
    requirements                  what a check says about NVIDIA's storage requirements
    doctor                        each part that the settings name, tried in seconds
    mounts                        what a path is mounted from
"""
