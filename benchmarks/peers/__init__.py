"""Other servers of the same models, each in an environment of its own.

A file here serves with the package of its name, and is run by that environment's Python from the
root of the repository: ``python -m benchmarks.peers.NAME PORT MODEL``. It may import `benchmarks`
where that needs JAX and numpy alone.
"""
