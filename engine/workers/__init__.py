"""Workers, here or on a Ray cluster, and the schedule that hands tasks to them."""
