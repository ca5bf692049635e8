"""The options of a session."""

from __future__ import annotations

import os

from traitlets import Dict, Enum, Float, Integer, List, Unicode, default
from traitlets.config import Config
from traitlets.config.configurable import Configurable

from .providers.registry import provider_name


class SessionSettings(Configurable):
    """What the configuration says of sessions; the class that people set it for is SandboxSession."""

    provider = Unicode(config=True, help="The provider that creates sandboxes. Environment: SANDBOX_KERNEL_PROVIDER.")
    allowed_providers = List(
        Unicode(),
        config=True,
        help="Further providers among which a cell of an ordinary kernel may choose: %%sandbox --provider NAME.",
    )
    startup_timeout = Float(60.0, config=True, help="Seconds in which a sandbox must have started.")
    execution_timeout = Float(
        0.0, config=True, help="Seconds after which a cell is interrupted, then its kernel ended; 0 means never."
    )
    start_attempts = Integer(3, config=True, help="How often a start is tried when a try may help.")
    retry_delay = Float(1.0, config=True, help="Seconds before the second attempt; doubles with each further one.")
    retry_longest_delay = Float(10.0, config=True, help="Seconds between attempts at most.")
    retry_jitter = Float(0.1, config=True, help="Fraction by which the delay varies at random.")

    reconnect_longest_delay = Float(
        10.0, config=True, help="Seconds between two attempts to make a lost connection again, at most."
    )
    reconnect_timeout = Float(
        3600.0, config=True, help="Seconds for which a lost connection to a sandbox is made again; 0 means for ever."
    )
    reconnect_notice = Float(
        30.0,
        config=True,
        min=0.0,
        help="Seconds for which a connection has been lost when the cell that waits says so; 0 means never.",
    )
    on_shutdown = Dict(
        value_trait=Enum(("close", "pause", "detach")),
        key_trait=Unicode(),
        config=True,
        help="What becomes of a sandbox that could outlive its kernel when that is shut down, by provider: 'close', "
        "'pause' or 'detach' (it goes on). Default: close.",
    )
    orphan_grace = Float(
        600.0,
        config=True,
        help="Seconds after which a sandbox whose kernel process died is stopped by the start of any other kernel.",
    )
    approvals = Dict(
        value_trait=Enum(("ask", "allow", "deny")),
        key_trait=Unicode(),
        config=True,
        help="What a %sandbox command that changes this machine, or hands something over, needs: by command's name "
        "(apply, discard, download, upload, install, generate, snapshot, stop of others, restart of what others have "
        "made) 'ask', 'allow' or 'deny'. Default: ask.",
    )

    max_fan_out = Integer(
        16, config=True, help="Sandboxes that one cell may make at once, by %%sandbox --replicas or %%sandbox map."
    )

    notebook = Unicode(help="The notebook's file, where a front end has told it.")

    @default("notebook")
    def _default_notebook(self) -> str:
        # A Jupyter server tells it so.
        return os.environ.get("JPY_SESSION_NAME", "")

    @default("provider")
    def _default_provider(self) -> str:
        return provider_name(Config())
