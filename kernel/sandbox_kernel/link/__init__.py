"""Numbered, acknowledged messages between the kernel process and a bridge, over any byte stream."""
