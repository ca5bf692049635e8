"""The brands of one protocol, as data: where they are, how they want to be asked, and what they offer."""

from __future__ import annotations

from dataclasses import dataclass

ENVD, INTERPRETER, AGENT, BRIDGE = 49983, 49999, 8080, 49777
"""Ports in a sandbox; the last one is ours."""
WORK = "work"
"""The cells' working folder, in the home of the sandbox's user."""


@dataclass(frozen=True)
class Brand:
    """One brand. Hosts are names, with a port where it is not 443."""

    name: str
    title: str
    domain: str
    """Where the API is, below `api.`, and sandboxes are, unless they say otherwise."""
    known_domains: tuple[str, ...]
    """Further domains of the brand; the key goes to hosts under these and nowhere else."""
    legacy_domains: tuple[str, ...] = ()
    """Their request bodies are older, and ids of sandboxes longer."""
    routed_domains: tuple[str, ...] = ()
    """There `sandbox.DOMAIN` leads to the services of all sandboxes, told apart by headers."""
    create_path: str = "/sandboxes"
    connect_path: str = "/sandboxes/{id}/connect"
    fork_path: str = "/sandboxes/{id}/clone"
    template: str = "code-interpreter-v1"
    """Where the configuration names none."""

    @property
    def key_variable(self) -> str:
        """Environment variable with the API key."""
        return self._variable("API_KEY")

    @property
    def domain_variable(self) -> str:
        """The same for the domain that the configuration may name."""
        return self._variable("DOMAIN")

    @property
    def url_variable(self) -> str:
        """The same for the API's address."""
        return self._variable("API_URL")

    @property
    def sandbox_url_variable(self) -> str:
        """The same for the one address of all sandboxes."""
        return self._variable("SANDBOX_URL")

    def _variable(self, what: str) -> str:
        # As the vendors' own SDKs call them: all begin with the brand's name.
        return f"{self.name.upper()}_{what}"


E2B = Brand(
    name="e2b",
    title="E2B",
    domain="e2b.app",
    known_domains=("e2b.app", "e2b.dev", "e2b.pro"),
    routed_domains=("e2b.app", "e2b.dev", "e2b.pro"),
    create_path="/v2/sandboxes",
    connect_path="/v2/sandboxes/{id}/connect",
    fork_path="/sandboxes/{id}/fork",
)
PPIO = Brand(
    name="ppio",
    title="PPIO",
    domain="sandbox.ppio.cn",
    known_domains=("sandbox.ppio.cn", "ppio.cn", "ppio.com", "ppinfra.com"),
    legacy_domains=("sandbox.ppio.cn",),
)
NOVITA = Brand(
    name="novita",
    title="Novita",
    domain="sandbox.novita.ai",
    known_domains=("sandbox.novita.ai", "novita.ai"),
    legacy_domains=("sandbox.novita.ai",),
)
BRANDS = {brand.name: brand for brand in (E2B, PPIO, NOVITA)}
