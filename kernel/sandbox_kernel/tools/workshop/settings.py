"""The configuration of the tools that are written in notebooks (`c.WorkshopSettings.…`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from traitlets import Bool, Dict, Enum, Float, Integer, List, Unicode, default
from traitlets.config.configurable import Configurable

from sandbox_kernel.errors import ToolRegistrationError

from .store import ToolStore

if TYPE_CHECKING:
    from .gateway import Gateway

DEFAULT_RULES = ["S102", "S103", "S301", "S302", "S307", "S310", "S602", "S604", "S605", "S606", "S701"]


class WorkshopSettings(Configurable):
    """Who owns what is registered here, where it is kept, and which code is taken."""

    owner = Unicode(config=True, help="Who owns the tools; by default the AWS caller identity, or this user's name.")
    store = Enum(("sqlite", "aws"), "sqlite", config=True, help="Where tools are kept.")
    folder = Unicode(config=True, help="Of the store sqlite; by default sandbox/tools in Jupyter's data folder.")
    table = Unicode("sandbox-tools", config=True, help="DynamoDB table of the store aws.")
    bucket = Unicode(config=True, help="S3 bucket of the store aws.")
    region = Unicode(config=True, help="AWS region; by default the SDK's.")
    endpoint_url = Unicode(config=True, help="Of an emulator of AWS.")
    rules = List(
        Unicode(), DEFAULT_RULES, config=True, help="Rules of ruff's, such as S605, that no tool in Python may break."
    )
    forbidden_imports = List(
        Unicode(), ["ctypes", "pickle", "marshal"], config=True, help="Modules that no tool in Python may import."
    )
    require_types = Bool(True, config=True, help="Whether each parameter needs a type.")
    require_docstring = Bool(True, config=True, help="Whether each tool needs a description.")
    max_code = Integer(200_000, config=True, help="Characters of a tool's code.")
    execution_timeout = Float(30.0, config=True, help="Seconds that a run may take where nothing else is asked for.")
    longest_execution = Float(300.0, config=True, help="Seconds that may be asked for.")
    callable_from_cells = Bool(True, config=True, help="Whether cells can call them as tools.NAME.")

    server_key = Unicode(
        config=True,
        help="What HTTP clients of `jupyter sandbox mcp` have to send. Environment: SANDBOX_KERNEL_MCP_KEY.",
    )

    server_url = Unicode(
        config=True, help="Where others reach `jupyter sandbox mcp --http`; published tools point there."
    )
    gateway = Unicode(config=True, help="Identifier of the AgentCore gateway that tools are published to.")
    gateway_credentials = List(
        Dict(), config=True, help="credentialProviderConfigurations of its targets, by which it gets the key."
    )
    use_gateway = Bool(False, config=True, help="Whether cells can call the tools that the gateway has.")

    @default("server_key")
    def _key_from_environment(self) -> str:
        return os.environ.get("SANDBOX_KERNEL_MCP_KEY", "")

    def make_store(self) -> ToolStore:
        """Return the store. Raises ToolStorageError."""
        if self.store == "aws":
            from .aws_store import AwsStore

            return AwsStore(self.table, self.bucket, region=self.region, endpoint_url=self.endpoint_url)
        from .sqlite_store import SqliteStore

        return SqliteStore(self._path())

    def make_gateway(self) -> Gateway:
        """Return the gateway. Raises ToolRegistrationError where none is configured."""
        if not self.gateway:
            raise ToolRegistrationError("No gateway is configured (WorkshopSettings.gateway).")
        from .gateway import Gateway

        return Gateway(
            self.gateway,
            server_url=self.server_url,
            server_key=self.server_key,
            credentials=self.gateway_credentials,
            region=self.region,
            endpoint_url=self.endpoint_url,
        )

    def _path(self) -> Path:
        if self.folder:
            return Path(self.folder).expanduser()
        from jupyter_core.paths import jupyter_data_dir

        return Path(jupyter_data_dir()) / "sandbox" / "tools"

    def who(self) -> str:
        """Return the owner; it is never what a cell says. Raises ToolStorageError where AWS does not tell."""
        if self.owner:
            return self.owner
        if self.store == "aws":
            from .identity import caller_identity

            return caller_identity(self.region, self.endpoint_url)
        import getpass

        try:
            return getpass.getuser()
        except (KeyError, OSError):
            # In a container whoever runs this may have no name.
            return f"user-{os.getuid()}"
