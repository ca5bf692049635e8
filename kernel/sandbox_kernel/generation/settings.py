"""What the configuration says of generation. Read with the first command that needs it."""

from __future__ import annotations

import os

from traitlets import Bool, Dict, Float, Integer, List, TraitError, Unicode, Union, default
from traitlets.config import Config
from traitlets.config.configurable import Configurable

from sandbox_kernel.configuration import check
from sandbox_kernel.errors import ConfigurationError

from .redaction import MIN_SECRET, is_secret_name

DEFAULT_CHAIN = [
    "bedrock:us.anthropic.claude-sonnet-4-20250514-v1:0",
    "bedrock:us.amazon.nova-premier-v1:0",
    "bedrock:us.anthropic.claude-3-5-sonnet-20241022-v2:0",
]


class Generation(Configurable):
    """Which models are asked, in which order, and what they are told."""

    models = List(
        Union([Unicode(), Dict(key_trait=Unicode())]),
        DEFAULT_CHAIN,
        config=True,
        help='The models, each asked when those before it fail: "kind:model", or {"kind": …, "model": …} with options '
        "of that kind.",
    )
    send_values = Bool(
        False, config=True, help="Whether models are told values of variables, and not only their types."
    )
    preview_rows = Integer(
        3, config=True, min=0, max=20, help="Rows below the header that models are told of a data file that is named."
    )
    max_context = Integer(
        24_000, config=True, min=1000, help="Tokens, about, of a question with all that goes with it, at most."
    )
    max_tokens = Integer(4096, config=True, min=16, help="Tokens that an answer may have at most.")
    first_token_timeout = Float(20.0, config=True, min=0.01, help="Seconds in which an answer must begin.")
    next_token_timeout = Float(20.0, config=True, min=0.01, help="Seconds in which an answer must go on.")
    answer_timeout = Float(300.0, config=True, min=0.01, help="Seconds in which an answer must be complete.")
    max_answer = Integer(200_000, config=True, min=100, help="Characters after which an answer is cut.")
    secrets = List(Unicode())
    """Values of this process's environment that look like secrets: never sent, never kept."""

    @default("secrets")
    def _secrets_of_environment(self) -> list[str]:
        return [value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= MIN_SECRET]

    history = Bool(True, config=True, help="Whether prompts and code are kept in the record file.")


def read_settings(config: Config) -> Generation:
    """Return what is configured. Raises ConfigurationError, also for an option that there is not."""
    own = Config({"Generation": config.Generation}) if "Generation" in config else Config()
    check(own, [Generation])
    try:
        return Generation(config=config)
    except TraitError as exc:
        raise ConfigurationError(f"Generation: {exc}") from exc
