"""Registers and calls real tools of LangChain and CrewAI; test_tools_of_frameworks.py runs it where both are there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from crewai.tools import BaseTool as CrewTool
from crewai.tools import tool as crew_tool
from langchain_core.tools import BaseTool, StructuredTool, tool
from pydantic import BaseModel, Field

from sandbox_kernel.tools import RuntimeContext
from sandbox_kernel.tools.adapters import make_tool
from sandbox_kernel.tools.schema import check_arguments


class Numbers(BaseModel):
    a: int = Field(description="the first")
    b: int = 1


@tool
def decorated(a: int, b: int = 1) -> int:
    """Add, by a decorated function."""
    return a + b


async def awaited(a: int, b: int = 1) -> int:
    return a + b


only_async = StructuredTool.from_function(coroutine=awaited, name="awaited", description="Add.", args_schema=Numbers)


class LangChainTool(BaseTool):
    name: str = "class_of_langchain"
    description: str = "Add."
    args_schema: Any = Numbers

    def _run(self, a: int, b: int = 1) -> int:
        return a + b


class CrewClass(CrewTool):
    name: str = "class of crew"
    description: str = "Add."
    args_schema: type[BaseModel] = Numbers

    def _run(self, a: int, b: int = 1) -> int:
        return a + b


@crew_tool("decorated of crew")
def crew_function(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


async def main() -> None:
    """Print what each tool made of two numbers, and its required arguments."""
    found = {}
    lives = {
        "decorated": decorated,
        "only_async": only_async,
        "langchain": LangChainTool(),
        "crew": CrewClass(),
        "crew_function": crew_function,
    }
    for name, live in lives.items():
        made = make_tool(name, live)
        arguments = {"a": 2, "b": 3}
        check_arguments(made.validator, arguments)
        value: Any = made.call(arguments, RuntimeContext())
        found[name] = [value if made.blocking else await value, made.input_schema["required"]]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
