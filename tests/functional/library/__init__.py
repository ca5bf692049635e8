"""The library: sandboxes for programs, with the local provider's real ones."""
