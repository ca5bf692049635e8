"""The `%sandbox` commands. The kernel process loads them on first use: entry point `sandbox_kernel.commands`."""
