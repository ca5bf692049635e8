"""Basic mode: a provider's own "run this code" call in the place of a bridge, its results as Jupyter messages.

A provider implements `runner.Runner`; `bridge.BasicBridge` is the other end of the session's link, in this process, so
that session, kernel and guard need not know the difference. What basic mode lacks is refused with a sentence.
"""
