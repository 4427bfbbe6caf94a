"""What runs: a Flax model becomes segments that are compiled ahead of time.

bind -> trace -> (costs) -> split -> cut -> compile -> profile, one module each; `build.py` does
them in that order.
"""
