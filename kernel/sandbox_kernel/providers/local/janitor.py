"""The janitor: a tiny process outside the sandbox that removes what a sandbox leaves, also after a `kill -9` of ours.

It waits for the end of a pipe that only the kernel process holds. It is the one that removes in every case, so the way
that is hardest to test is the ordinary one. It is there before bubblewrap, and puts the sandbox into its control group:
this takes the kernel ten milliseconds, in which bubblewrap mounts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# Arguments: the descriptor to wait for, the name under which bubblewrap runs, folders, "--", control groups.
# Standard input: what bubblewrap tells about its child; standard output: its end lets the child go on.
#
# * Standard input is read to its end: bubblewrap would die of a pipe that nobody reads, and at the end there is no
#   bubblewrap any more that could still make a child.
# * An editor signals every descendant when it ends a kernel.
# * A bubblewrap that is killed while it starts leaves a child that waits for it for ever. The child is known by its
#   number and process namespace, because the number may be another's by then; or, where bubblewrap had not told it
#   yet, by the name that no other process has.
# * The folder may hold entries that were made unreadable, and processes that are dying may still write to it; `rm` and
#   `chmod -R` follow no symbolic link that they meet.
_SCRIPT = """\
trap '' HUP INT TERM
end=$1 name=$2 child= namespace=
shift 2
while read -r key value; do
    case $key in
        '"child-pid":') child=${value%,} ;;
    esac
done
what=folder
for path; do
    case $what$path in
        *--) what=group ;;
        group*) [ "$child" ] && echo "$child" > "$path/cgroup.procs" ;;
    esac
done 2>&-
exec < "/proc/self/fd/$end" > /dev/null 2>&1
[ "$child" ] && namespace=$(readlink "/proc/$child/ns/pid")
read -r line
if [ -z "$child" ]; then
    for process in /proc/[0-9]*; do
        begin=$(dd bs=${#name} count=1 < "$process/cmdline") || continue
        [ "$begin" = "$name" ] && kill -9 "${process#/proc/}"
    done
elif [ "$namespace" ] && [ "$(readlink "/proc/$child/ns/pid")" = "$namespace" ]; then
    kill -9 "$child"
fi
for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left= what=folder
    for path; do
        case $what$path in
            *--) what=group; continue ;;
            folder*) rm -rf "$path" || { chmod -R u+rwx "$path"; rm -rf "$path"; } ;;
            group*) rmdir "$path" ;;
        esac
        [ -e "$path" ] && left=yes
    done
    [ "$left" ] || exit 0
    sleep 0.1 || sleep 1
done
exit 1
"""


@dataclass(eq=False, repr=False)
class Entrance:
    """Pipes between a bubblewrap and the janitor: what it tells about its child, and what it waits for, if it does."""

    told: int
    telling: int
    waiting: int = -1
    going_on: int = -1

    @classmethod
    def open(cls, *, waits: bool) -> Entrance:
        """Return new pipes, the second one if bubblewrap is to wait."""
        told, telling = os.pipe()
        return cls(told, telling, *os.pipe()) if waits else cls(told, telling)

    def close(self) -> None:
        """Close our descriptors, when bubblewrap and the janitor have them. Idempotent."""
        for descriptor in (self.told, self.telling, self.waiting, self.going_on):
            if descriptor >= 0:
                os.close(descriptor)
        self.told = self.telling = self.waiting = self.going_on = -1


class Janitor:
    """Removes folders and control groups when the kernel process closes its end of the pipe, or ends."""

    def __init__(
        self,
        name: str,
        entrance: Entrance,
        folders: Sequence[str],
        locks: Sequence[int],
        groups: Sequence[str] = (),
    ) -> None:
        """``name`` is bubblewrap's ``argv[0]``; ``locks`` are descriptors to keep open as long as the janitor lives."""
        reader, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "sandbox-janitor", str(reader), name, *folders, "--", *groups],
                stdin=entrance.told,
                stdout=entrance.going_on if entrance.going_on >= 0 else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[reader, *locks],
                env={"PATH": "/usr/bin:/bin:/usr/local/bin:/run/current-system/sw/bin"},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reader)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def release(self) -> None:
        """Have it remove everything, without waiting. Idempotent."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def wait(self) -> None:
        """Wait until it has removed everything, which it was told to."""
        self._process.wait()

    def finished(self) -> bool:
        """Whether it has removed everything and ended."""
        return self._process.poll() is not None
