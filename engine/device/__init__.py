"""Detect the hardware and what engines require of it.

This covers GPUs, drivers, CUDA streams, the transfer of images to the GPU, and the packages of each engine.
"""
