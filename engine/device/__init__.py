"""The machine: GPUs, drivers, streams, pixels on the card, and what each engine needs."""
