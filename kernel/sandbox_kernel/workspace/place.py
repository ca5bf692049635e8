"""Whether a folder may be shown to a sandbox at all."""

from __future__ import annotations

import os

from .patterns import Patterns

_WHOLE = "/etc /usr /bin /sbin /lib /lib32 /lib64 /boot /dev /proc /sys /nix /System /Library /Windows".split()
"""No folder in one of these is a notebook's own."""
_ONLY = "/ /home /opt /srv /mnt /media /run /var /tmp /var/tmp /Users /Volumes /private/tmp".split()
"""Folders that hold other people's and programs' files; those in them may be a notebook's own."""


def refusal(folder: str, patterns: Patterns) -> str:
    """Return why cells must not see this folder, as a clause; "" if they may."""
    folder = os.path.realpath(folder)
    home = os.path.realpath(os.path.expanduser("~"))
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder} is no folder that you may read"
    if folder == home:
        return "the notebook lies directly in your home folder, which holds more than a notebook should see"
    if f"{home}/".startswith(f"{folder.rstrip('/')}/"):
        return f"the notebook lies in {folder}, which has your home folder in it"
    if folder in _ONLY or any(folder == one or folder.startswith(f"{one}/") for one in _WHOLE):
        return f"the notebook lies in {folder}, which belongs to the system"
    if folder.startswith(f"{home}/") and patterns.cover(folder[len(home) + 1 :], folder=True):
        return f"the notebook lies in {folder}, which the configuration hides from cells"
    return ""
