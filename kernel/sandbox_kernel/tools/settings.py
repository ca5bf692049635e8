"""The configuration of tools (`c.Tools.…`): what there is, who decides about calls, and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, Enum, Float, Integer, List, Unicode
from traitlets.config.configurable import Configurable

POLICIES = ("allow", "ask", "deny")


class Tools(Configurable):
    """What cells may call outside of their sandbox. Nothing that is not named here can be called."""

    tools = Dict(
        key_trait=Unicode(),
        config=True,
        help='Tools by name: "package.module:function", or a dict with "call" (such a path), and any of "policy", '
        '"timeout", "description", "input_schema", "options" (arguments of a class), "secrets" (arguments that are '
        "never written down).",
    )
    agents = Dict(key_trait=Unicode(), config=True, help="Agents by name, as tools; cells call them by agents[NAME].")
    entry_points = List(
        Unicode(), config=True, help="Names of installed entry points of the group sandbox_kernel.tools that are tools."
    )
    mcp_servers = Dict(
        key_trait=Unicode(),
        value_trait=Dict(),
        config=True,
        help='MCP servers by name: {"command": ["program", "argument"], "env": {}} or {"url": "https://…", '
        '"headers": {}}; also "policy", "timeout", "tools" (names of those that are wanted). Their tools are called '
        "SERVER_TOOL.",
    )
    default_policy = Enum(POLICIES, "ask", config=True, help="Who decides about a call where nothing else is said.")
    policies = Dict(
        key_trait=Unicode(),
        value_trait=Enum(POLICIES),
        config=True,
        help='Who decides, by patterns of names such as "files_*"; what a tool itself says counts first.',
    )
    available_tools = List(
        Unicode(), config=True, help="Patterns of the names that may be called; empty: all that there are."
    )
    timeout = Float(60.0, config=True, help="Seconds that a call may take where its tool says nothing else.")
    max_result = Integer(64 * 1024 * 1024, config=True, help="Bytes that a call may return.")
    max_parallel = Integer(64, config=True, help="Calls of one session that run at once; others wait.")
    context = Dict(
        key_trait=Unicode(), config=True, help="Variables of every call's context; a notebook cannot change them."
    )
    audit_file = Unicode(
        config=True, help="The audit log; by default sandbox/tool-calls.jsonl in Jupyter's data folder."
    )
    audit = Bool(True, config=True, help="Whether calls are written down.")

    @property
    def audit_path(self) -> Path:
        """Where the audit log lies."""
        if self.audit_file:
            return Path(self.audit_file).expanduser()
        from jupyter_core.paths import jupyter_data_dir

        return Path(jupyter_data_dir()) / "sandbox" / "tool-calls.jsonl"

    def policy_of(self, name: str, own: Any = None) -> str:
        """Return who decides about calls of a tool; OWN is what its entry says."""
        from fnmatch import fnmatchcase

        if own is not None:
            return str(own)
        found = [policy for pattern, policy in self.policies.items() if fnmatchcase(name, pattern)]
        # The strictest of several.
        return max([*found], key=POLICIES.index) if found else str(self.default_policy)
