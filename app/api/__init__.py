"""The public layer: each job of the command line as a function, without its printing. `bandlens.NAME` leads here.

What is wrong is raised as an error of `core/errors.py`. Paths are text or `Path`. Where a job takes long, `progress`
shows how far it is: `with progress(what, total, unit) as advance`, then `advance(amount)` as it goes on; by default
nothing. Heavy libraries are imported by the functions that need them.
"""
