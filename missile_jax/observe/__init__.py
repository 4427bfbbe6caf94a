"""What can be seen of a `Runtime` while it serves: metrics, metering, timelines, traces, logs.

All of it reads what the engine counts or reports anyway; none of it knows a transport.
"""
