"""Sandboxes of E2B, PPIO and Novita, which speak one protocol under three names; httpx is imported on first use."""
