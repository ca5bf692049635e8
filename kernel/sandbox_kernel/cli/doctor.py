"""`jupyter sandbox doctor`: what this machine can do for a provider, and why not."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.providers.base import Diagnosis, Provider, SandboxSpec

TRIAL = "a sandbox starts"


def add_commands(families: Any) -> None:
    """Add the subcommand to the program's parser."""
    text = "try what a provider needs on this machine; the exit code is 0 if it works"
    parser = families.add_parser("doctor", help=text, description=text)
    parser.add_argument("--provider", metavar="NAME", help="the provider; by default the configured one")
    parser.add_argument("--config", metavar="FILE", help="a configuration file besides Jupyter's own")
    parser.set_defaults(run=examine)


def examine(arguments: Namespace) -> int:
    """Print one line for each thing that was tried."""
    provider = _provider(arguments)
    diagnoses = list(provider.diagnose())
    tries = not (provider.capabilities.billed or provider.not_tried)
    if tries:
        diagnoses.append(asyncio.run(_try(provider)))
    print(f"Provider {provider.name}")
    width = max(len(one.subject) for one in diagnoses)
    for one in diagnoses:
        print(f"  {'yes' if one.works else 'no':3}  {one.subject:{width}}  {one.detail}".rstrip())
    if provider.not_tried:
        print(f"  {'-':3}  {TRIAL:{width}}  not tried: {provider.not_tried}")
    # The last one is the trial; without it everything has to be in order.
    works = diagnoses[-1].works if tries else all(one.works for one in diagnoses)
    return 0 if works else 1


def _provider(arguments: Namespace) -> Provider:
    from sandbox_kernel.providers.registry import create_provider
    from sandbox_kernel.session import SandboxSession

    from .settings import kernel_configuration

    words = [f"--config={arguments.config}"] if arguments.config else []
    words += [f"--provider={arguments.provider}"] if arguments.provider else []
    config = kernel_configuration(words)
    return create_provider(SandboxSession(_Nobody(), config=config).provider, config)


async def _try(provider: Provider) -> Diagnosis:
    try:
        sandbox = await provider.create(SandboxSpec("doctor"))
    except SandboxKernelError as exc:
        return Diagnosis(TRIAL, works=False, detail=str(exc))
    await sandbox.close()
    return Diagnosis(TRIAL, works=True, detail=sandbox.isolation.value)


class _Nobody:
    """Listens to a session that is never started."""

    def on_message(self, parts: list[Any]) -> None:
        """Nothing comes."""

    def on_past(self, parts: list[Any]) -> None:
        """Nothing past is ever asked for."""

    def on_skipped(self, messages: int) -> None:
        """Nothing is skipped: the sandbox ends with this process."""

    def on_excess(self, parts: list[Any], size: int) -> None:
        """Nothing comes."""

    def on_ready(self) -> None:
        """Nothing starts."""

    def on_ended(self, error: SandboxKernelError) -> None:
        """Nothing ends."""
