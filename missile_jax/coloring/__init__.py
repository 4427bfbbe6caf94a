"""Which VRAM channel an address belongs to: maps, and their recovery from timing alone.

Words used here: a *page* is 2 MiB of device memory, contiguous in physical space. A *granule* is
the least run of bytes that lies in one channel, a *colour* is a channel's number. A page's *state*
is all that its colours depend on besides the offset in it.
"""
