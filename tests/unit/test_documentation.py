"""What the documents say about options and commands is what there is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from traitlets.config.configurable import Configurable

from sandbox_kernel.agents.settings import Agents
from sandbox_kernel.cli import main as cli
from sandbox_kernel.configuration import HOST_OPTIONS
from sandbox_kernel.events import EventLog
from sandbox_kernel.executor.settings import Executor
from sandbox_kernel.generation.models.base import Model
from sandbox_kernel.generation.models.bedrock import BedrockModel
from sandbox_kernel.generation.models.openai import OpenAIModel
from sandbox_kernel.generation.models.strands import StrandsModel
from sandbox_kernel.generation.settings import Generation
from sandbox_kernel.guard import Guard
from sandbox_kernel.providers.agentcore.provider import AgentCoreProvider
from sandbox_kernel.providers.e2b.provider import E2BProvider
from sandbox_kernel.providers.executor.provider import ExecutorProvider
from sandbox_kernel.providers.gateway.provider import GatewayProvider
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.ray.provider import RayProvider
from sandbox_kernel.session import SandboxSession
from sandbox_kernel.tools.settings import Tools
from sandbox_kernel.tools.workshop import WorkshopSettings
from sandbox_kernel.workspace.settings import Workspace
from sandbox_magics.registry import all_cell_commands, all_commands

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")]


@pytest.mark.parametrize(
    "owner",
    [
        SandboxSession,
        Guard,
        Workspace,
        LocalProvider,
        AgentCoreProvider,
        E2BProvider,
        Agents,
        ExecutorProvider,
        GatewayProvider,
        RayProvider,
        Executor,
        EventLog,
        Generation,
        Model,
        BedrockModel,
        OpenAIModel,
        StrandsModel,
        Tools,
        WorkshopSettings,
    ],
    ids=lambda owner: owner.__name__,
)
def test_configuration_names_every_option_and_no_other(owner: type[Configurable]) -> None:
    table = CONFIGURATION.partition(f"| option `{owner.__name__}.…` |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    of_every_model = set(Model.class_traits(config=True)) if owner is not Model and issubclass(owner, Model) else set()
    assert sorted(named) == sorted(owner.class_traits(config=True).keys() - of_every_model)


def test_configuration_names_every_environment_variable() -> None:
    used = {name for file in (REPOSITORY / "kernel").rglob("*.py") for name in variables(file)}
    assert used
    assert used == variables(REPOSITORY / "docs/configuration.md")


def test_configuration_names_every_option_that_is_ignored() -> None:
    assert [name for name in HOST_OPTIONS if f"`{name}`" not in CONFIGURATION] == []


def variables(file: Path) -> set[str]:
    """Return the names of our environment variables in a file."""
    return set(re.findall(r"SANDBOX_KERNEL_[A-Z_]+", file.read_text(encoding="utf-8")))


def test_readme_names_every_magic_command() -> None:
    table = README.partition("## Commands")[2].partition("## ")[0]
    import sandbox_magics.commands  # noqa: F401 - it registers them

    every = (*all_commands(), *all_cell_commands())
    assert len(every) > 20
    assert [one.name for one in every if not re.search(rf"[ `]{one.name}\b", table)] == []


def test_readme_names_every_subcommand_of_jupyter_sandbox() -> None:
    missing = [name for name in subcommands(cli._parser()) if f"jupyter sandbox {name}" not in README]
    assert missing == []


def subcommands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Give the subcommands of a parser, `family command` where there are families."""
    for action in parser._actions:
        for name, inner in (action.choices or {}).items() if isinstance(action, argparse._SubParsersAction) else ():
            yield from [f"{name} {one}" for one in subcommands(inner)] or [name]


def test_links_between_documents_lead_somewhere() -> None:
    files = [file for place in DOCUMENTS for file in ([place] if place.is_file() else place.glob("*.md"))]
    broken = [
        f"{file.name}: {target}"
        for file in files
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8"))
        if not (file.parent / target).exists()
    ]
    assert broken == []
