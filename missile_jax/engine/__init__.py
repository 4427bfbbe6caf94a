"""Makes it so: decides, launches, completes."""
