"""Attention kernels that run on CPUs alone."""
