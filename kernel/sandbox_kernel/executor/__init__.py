"""The executor: runs sandboxes on its machine for kernel processes elsewhere (`jupyter sandbox serve`)."""
