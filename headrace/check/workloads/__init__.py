"""Workloads: what `headrace check` measures beside the promises, as rates and latencies with a stated concurrency.

Each tier's module has its workloads, functions that drive its storage in the sandbox of the tier's promises for a given time and
return a `Timed`. To add a workload, add a function to its module's `WORKLOADS`. No read is answered by a cache of this process;
what the storage and the kernel cache is said in the workload's shape.
"""
