"""The options of agents in notebooks, and the client that they come to."""

from __future__ import annotations

from traitlets import Bool, Float, Int, Unicode
from traitlets.config import Config
from traitlets.config.configurable import Configurable

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.providers.e2b.brands import BRANDS
from sandbox_kernel.providers.e2b.provider import BrandProvider
from sandbox_kernel.providers.registry import create_provider

from .client import AgentClient
from .session import RETRIES


class Agents(Configurable):
    """What the configuration says of agents that notebooks call."""

    provider = Unicode(
        "",
        help="Where agents are deployed: ppio, e2b or novita. "
        "Default: the notebook's provider if it is one of them, else ppio.",
    ).tag(config=True)
    request_timeout = Float(300.0, min=0.1, help="Seconds for an answer, and for each pause in one.").tag(config=True)
    lifetime = Float(300.0, min=1.0, help="Seconds after the last request when a session is paused.").tag(config=True)
    retries = Int(
        RETRIES, min=0, help="How often a request is made again after a fault of the network, 1, 2, 4 … seconds later."
    ).tag(config=True)
    max_connections = Int(200, min=1, help="Connections at one time.").tag(config=True)
    send_key = Bool(
        False,
        help="Whether agents are sent the API key, as the vendor's own client does; then code in the sandbox has it.",
    ).tag(config=True)


def configured_client(config: Config, notebook_provider: str) -> AgentClient:
    """Return a client as the configuration wants it. Raises ConfigurationError, AuthenticationError."""
    options = Agents(config=config)
    name = options.provider or (notebook_provider if notebook_provider in BRANDS else "ppio")
    if name not in BRANDS:
        raise ConfigurationError(f"Agents.provider is {name!r}; there are: {', '.join(BRANDS)}.")
    provider = create_provider(name, config)
    assert isinstance(provider, BrandProvider)
    return AgentClient(
        name,
        domain=provider.domain,
        api_url=provider.api_url,
        sandbox_url=provider.sandbox_url,
        request_timeout=options.request_timeout,
        lifetime=options.lifetime,
        retries=options.retries,
        max_connections=options.max_connections,
        send_key=options.send_key,
    )
