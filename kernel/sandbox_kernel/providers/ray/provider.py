"""The provider ray: its options, and what they come to. Ray itself is imported by a companion process alone."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Dict, Float, Unicode, default

from sandbox_kernel.errors import ConfigurationError, SandboxConnectionError, SandboxCreationError, SandboxKernelError
from sandbox_kernel.providers.base import (
    Capabilities,
    ClusterNode,
    ClusterView,
    Diagnosis,
    Provider,
    Resources,
    Sandbox,
    SandboxRecord,
    SandboxSpec,
)
from sandbox_kernel.providers.local.limits import Size, format_size

from .survey import RUNNING
from .words import Order, new_id, owner_mark, package_version, parse_id

if TYPE_CHECKING:
    from .companion import Companion

_GIVEN_UP = "The wait for the Ray cluster was given up, and nothing of it is left there; the next cell asks again."


class RayProvider(Provider):
    """Sandboxes on the nodes of a Ray cluster: Ray chooses the node, and the local provider isolates there."""

    name = "ray"

    address = Unicode(
        "auto",
        help="Where the cluster is: auto (this machine is a node of it), host:port (likewise, where it is one of "
        "several) or ray://host:port (from any machine).",
    ).tag(config=True)
    namespace = Unicode("sandbox-kernel", help="Ray's namespace in which the sandboxes' actors have names.").tag(
        config=True
    )
    owner_name = Unicode(help="Whose the sandboxes are: others' are not listed or attached. Default: this user.").tag(
        config=True
    )
    cpus = Float(1.0, min=0.0, help="Processors of a sandbox.").tag(config=True)
    gpus = Float(0.0, min=0.0, help="GPUs of a sandbox; others' are not to be seen in it.").tag(config=True)
    memory = Size(min=0, help="Memory of a sandbox, in bytes or as text such as '8 GiB'; 0: Ray reserves none.").tag(
        config=True
    )
    resources = Dict(key_trait=Unicode(), value_trait=Float(), help="Further resources of Ray's, by name.").tag(
        config=True
    )
    labels = Dict(
        key_trait=Unicode(), value_trait=Unicode(), help="Labels that the node must have (Ray's label_selector)."
    ).tag(config=True)
    runtime_env = Dict(
        help="Ray's runtime environment for the sandboxes' actors, such as {'pip': ['sandbox-kernel']}. Default: what "
        "the nodes' image has."
    ).tag(config=True)
    local = Dict(help="Options of the local provider on the nodes, such as {'work_size': '20 GiB'}.").tag(config=True)
    most_cpus = Float(0.0, min=0.0, help="What `%sandbox start --cpus` may ask for; 0: any number.").tag(config=True)
    most_gpus = Float(0.0, min=0.0, help="What `%sandbox start --gpus` may ask for; 0: any number.").tag(config=True)
    most_memory = Size(min=0, help="What `%sandbox start --memory` may ask for; 0: any size.").tag(config=True)
    start_with_kernel = Bool(
        False,
        help="Whether a sandbox is asked for as soon as the notebook is opened; else by the first cell that a person "
        "runs.",
    ).tag(config=True)
    unused_timeout = Float(
        14400.0,
        min=0,
        help="Seconds without a kernel process, and without anything computing, until a sandbox ends; 0: never.",
    ).tag(config=True)
    connect_timeout = Float(30.0, min=1.0, help="Seconds in which the cluster must have let us in.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capabilities = Capabilities(
            pause=True, outlives_kernel=True, billed=not self.start_with_kernel, distant=True
        )
        self.place = self.address
        self._companion: Companion | None = None
        self._creating: asyncio.Task[Sandbox] | None = None
        self._chosen = Resources()
        self._given_up = False

    @default("owner_name")
    def _default_owner_name(self) -> str:
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            # A container whose user has no name.
            return "nobody"

    # ---- the contract

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self._given_up = False
        self._creating = asyncio.ensure_future(self._create(spec))
        try:
            return await self._creating
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            if self._companion is not None:
                self._companion.give_up()
            raise SandboxCreationError(_GIVEN_UP, provider=self.name, correlation_id=spec.correlation_id) from None
        finally:
            self._creating = None
            self.on_waiting("")

    async def _create(self, spec: SandboxSpec) -> Sandbox:
        from .sandbox import RaySandbox

        order = self._order(spec)
        options = self._options()
        companion = await self.companion()
        info = await companion.call("create", on_news=self.on_waiting, order=dict(order), options=options)
        return RaySandbox(self.companion, info, _asked(options), spec.correlation_id)

    def stop_waiting(self) -> bool:
        if self._creating is None:
            return False
        self._given_up = True
        self._creating.cancel()
        return True

    def choose_resources(self, resources: Resources) -> None:
        for option, amount in (("--cpus", resources.cpus), ("--memory", resources.memory)):
            # Nothing asked for would be no limit at all on the node, whatever the configuration says.
            if amount is not None and amount <= 0:
                raise ConfigurationError(f"{option} must be more than 0; without it, the configuration's value counts.")
        self._check(resources.cpus, self.most_cpus, "--cpus", "most_cpus")
        self._check(resources.gpus, self.most_gpus, "--gpus", "most_gpus")
        if self.most_memory and (resources.memory or 0) > self.most_memory:
            raise ConfigurationError(
                f"--memory may be {format_size(self.most_memory)} at most (RayProvider.most_memory)."
            )
        self._chosen = resources

    def _check(self, wanted: float | None, most: float, option: str, trait: str) -> None:
        if most and (wanted or 0) > most:
            raise ConfigurationError(f"{option} may be {most:g} at most (RayProvider.{trait}).")

    async def connect(self, sandbox_id: str) -> Sandbox:
        from .sandbox import RaySandbox

        companion = await self.companion()
        sandbox = RaySandbox(self.companion, await companion.call("info", sandbox_id=sandbox_id), "")
        if sandbox.state == "paused":
            await sandbox.resume()
        return sandbox

    async def list(self) -> Sequence[SandboxRecord]:
        companion = await self.companion()
        return [
            SandboxRecord(one["sandbox_id"], one["state"], float(one["created"]), one.get("idle"))
            for one in await companion.call("list")
        ]

    async def owner(self) -> str:
        return owner_mark(self.owner_name)

    async def cluster(self) -> ClusterView:
        companion = await self.companion()
        seen = await companion.call("survey")
        own = owner_mark(self.owner_name)
        nodes = [_node(one, seen, own) for one in seen["nodes"]]
        waiting = [one["name"] for one in seen["actors"] if one["state"] != RUNNING]
        ours = tuple(one for one in waiting if _owner_of(one) == own)
        return ClusterView(self.address, tuple(nodes), ours, len(waiting) - len(ours))

    def diagnose(self) -> Sequence[Diagnosis]:
        return asyncio.run(self._diagnose())

    async def _diagnose(self) -> Sequence[Diagnosis]:
        subject = f"the Ray cluster at {self.address} answers"
        try:
            view = await self.cluster()
        except SandboxKernelError as exc:
            return [Diagnosis(subject, works=False, detail=str(exc))]
        finally:
            await self.disconnect()
        return [Diagnosis(subject, works=True, detail=f"it has {len(view.nodes)} nodes")]

    async def disconnect(self) -> None:
        companion, self._companion = self._companion, None
        if companion is not None and companion.loop is asyncio.get_running_loop():
            await companion.close()

    def close(self) -> None:
        if self._companion is not None:
            self._companion.kill()
            self._companion = None

    # ---- the companion, and what it is told

    async def companion(self, start: bool = True) -> Companion:
        """Return the process that talks to the cluster, connected. Raises what keeps it from that.

        Where there is none it is started, if ``start``, or SandboxConnectionError raised. It belongs to the event loop
        that runs.
        """
        from .companion import Companion

        found = self._companion
        if found is None or not found.alive or found.loop is not asyncio.get_running_loop():
            if not start:
                raise SandboxConnectionError("There is no connection to the Ray cluster.", provider=self.name)
            if found is not None:
                found.kill()
            settings = {"address": self.address, "namespace": self.namespace, "owner": self.owner_name}
            found = self._companion = Companion(settings, self.connect_timeout)
        await found.connected()
        return found

    def _order(self, spec: SandboxSpec) -> Order:
        local = dict(self.local)
        cpus, memory = self._cpus(), self._memory()
        if cpus:
            local.setdefault("cpus", cpus)
        if memory:
            local.setdefault("memory", memory)
        return Order(
            sandbox_id=new_id(owner_mark(self.owner_name)),
            version=package_version(),
            label=spec.notebook.name if spec.notebook else spec.directory.name,
            kernel_arguments=list(self.kernel_arguments),
            local=local,
            unused_timeout=self.unused_timeout,
            correlation_id=spec.correlation_id,
        )

    def _options(self) -> dict[str, Any]:
        """Return the options of the actor, in Ray's words."""
        gpus = self.gpus if self._chosen.gpus is None else self._chosen.gpus
        options: dict[str, Any] = {"num_cpus": self._cpus(), "num_gpus": gpus}
        if self._memory():
            options["memory"] = self._memory()
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.labels:
            options["label_selector"] = dict(self.labels)
        if self.runtime_env:
            options["runtime_env"] = dict(self.runtime_env)
        return options

    def _cpus(self) -> float:
        return float(self.cpus if self._chosen.cpus is None else self._chosen.cpus)

    def _memory(self) -> int:
        return int(self.memory if self._chosen.memory is None else self._chosen.memory)


def _asked(options: dict[str, Any]) -> str:
    parts = [f"{options['num_cpus']:g} CPUs"]
    if options["num_gpus"]:
        parts.append(f"{options['num_gpus']:g} GPUs")
    if "memory" in options:
        parts.append(f"{format_size(options['memory'])} of memory")
    parts += [f"{amount:g} {name}" for name, amount in options.get("resources", {}).items()]
    return ", ".join(parts)


def _owner_of(name: str) -> str:
    found = parse_id(name)
    return found[0] if found else ""


def _node(one: dict[str, Any], seen: dict[str, Any], own: str) -> ClusterNode:
    there = [actor for actor in seen["actors"] if actor["node_id"] == one["node_id"]]
    # One that waits may be noted at the node that looks for room for it.
    here = [actor["name"] for actor in there if actor["state"] == RUNNING]
    ours = tuple(name for name in here if _owner_of(name) == own)
    return ClusterNode(
        name=one["name"],
        total=dict(one["total"]),
        free=dict(one["free"]),
        sandboxes=ours,
        others=len(here) - len(ours),
        actors=int(seen["others"].get(one["node_id"], 0)),
    )
