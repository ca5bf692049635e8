"""Kernels of Jupyter servers and gateways, over the API that all of them have."""
