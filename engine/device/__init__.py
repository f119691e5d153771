"""Detect the hardware and its requirements:

GPUs, drivers, CUDA streams, image transfer, and the packages of each engine.
"""
