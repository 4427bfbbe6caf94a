"""Who is next: queues, batching, fair shares and policies. No jax, no clock, no threads."""
