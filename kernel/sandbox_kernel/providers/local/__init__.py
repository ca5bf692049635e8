"""The local provider: bubblewrap on this machine. What only Linux has is imported in this folder alone, and late."""
