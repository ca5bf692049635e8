"""Notebooks whose models are emulators: kernels with their configuration, and what front ends see of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.emulators.bedrock import KEYS
from tests.emulators.server import Emulator

from .client import Exchange, FrontEnd, KernelProcess, running

SECRETS = {
    "AWS_ACCESS_KEY_ID": KEYS,
    "AWS_SECRET_ACCESS_KEY": "aws-secret-of-the-tests",
    "OPENAI_API_KEY": "sk-key-of-the-tests-0123456789",
    "MY_DATABASE_PASSWORD": "correct horse battery",
}
"""In the kernel process's environment; none of it may leave it but in the headers for which it is meant."""
CONFIGURATION = """\
c.SandboxSession.approvals = {{"generate": "{approval}", "apply": "allow", "install": "allow"}}
c.BedrockModel.endpoint_url = "{bedrock}"
c.BedrockModel.region = "us-east-1"
c.Generation.models = ["bedrock:first", {{"kind": "openai", "model": "second", "endpoint_url": "{openai}/v1"}}]
c.Generation.first_token_timeout = 20.0
"""


def configure(folder: Path, bedrock: Emulator, openai: Emulator, *lines: str, approval: str = "allow") -> None:
    """Write the configuration of a user with two models."""
    # All of them are there before the sandbox: what appears later and has to be hidden from it would end it.
    for name in ("config", "data", "runtime"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    place = folder / "config"
    text = CONFIGURATION.format(bedrock=bedrock.url, openai=openai.url, approval=approval)
    (place / "jupyter_sandbox_config.py").write_text(text + "\n".join(lines))


class Desk:
    """A kernel, a front end to it, and its models."""

    def __init__(self, kernel: KernelProcess, folder: Path, bedrock: Emulator, openai: Emulator) -> None:
        self.kernel, self.folder, self.bedrock, self.openai = kernel, folder, bedrock, openai
        self.front_end: FrontEnd = kernel.front_end()
        self.run = self.front_end.run

    def generate(self, wish: str, options: str = "") -> Exchange:
        """Run a cell of `%%sandbox generate`."""
        return self.run(f"%%sandbox generate {options}\n{wish}")


@contextmanager
def desk(
    folder: Path, bedrock: Emulator, openai: Emulator, *lines: str, approval: str = "allow", **environment: str
) -> Iterator[Desk]:
    """A desk for one block."""
    configure(folder, bedrock, openai, *lines, approval=approval)
    with running(folder, environment={**SECRETS, **environment}) as kernel:
        yield Desk(kernel, folder, bedrock, openai)


def shown(exchange: Exchange, kind: str = "text/markdown") -> str:
    """Return what the answer's display shows at the end."""
    return pictures(exchange, kind)[-1]


def pictures(exchange: Exchange, kind: str = "text/markdown") -> list[str]:
    """Return each picture of the answer's display, in their order."""
    found = [
        content["data"].get(kind, "")
        for content in (msg["content"] for msg in exchange.messages if "display_data" in msg["msg_type"])
        if str(content.get("transient", {}).get("display_id", "")).startswith("sandbox-answer-")
    ]
    assert found, [(msg["msg_type"], msg["content"]) for msg in exchange.messages]
    return found


def new_cell(exchange: Exchange) -> str:
    """Return the text of the only cell that was put into the notebook."""
    (payload,) = exchange.reply["payload"]
    assert (payload["source"], payload["replace"]) == ("set_next_input", False)
    return str(payload["text"])
