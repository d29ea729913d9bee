"""Acceptance test of a storage platform: does it keep the promises that Headrace relies on?

Each tier's module (`objects`, `head`, `catalog`, `files`, `vectors`) has its promises: functions that test one in a sandbox and
return a measurement, or raise `Broken`. To add a promise, add a function to its module's `PROMISES`. The subject is the storage,
so the clients are the libraries that Headrace uses, without its own handles. `acceptance.check_storage` runs all of them, and the
workloads.
"""
