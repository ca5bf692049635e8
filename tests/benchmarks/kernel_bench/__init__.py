"""Side-by-side measurements of Jupyter kernels: one module per family, a raw ZeroMQ client, a table."""
