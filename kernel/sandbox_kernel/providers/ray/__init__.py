"""Sandboxes on the nodes of a Ray cluster. The kernel process itself never imports Ray: a companion process does."""
