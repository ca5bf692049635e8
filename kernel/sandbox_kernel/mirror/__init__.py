"""The notebook's folder in a sandbox that does not share this machine's disk: a copy, kept alike from both ends.

The copy is the sandbox's working folder. What is in the sandbox is its cells' affair, so nothing that it says is
believed before it was checked, and what comes from it goes into a layer of this machine (see workspace/layers.py).
"""
