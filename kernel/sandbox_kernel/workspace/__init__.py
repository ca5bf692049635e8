"""The notebook's folder in the sandbox: what of it is shown, what cells changed, and how this comes to the host.

Nothing here knows how a sandbox is made; a provider mounts or copies what it is told.
"""
