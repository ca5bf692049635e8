"""Which names are hidden: the syntax of .gitignore, and what the default list is about."""

from __future__ import annotations

import pytest

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.settings import HIDDEN


@pytest.mark.parametrize(
    ("patterns", "path", "matches"),
    [
        # As gitignore(5) has it.
        (["name"], "a/b/name", True),
        (["/name"], "name", True),
        (["/name"], "a/name", False),
        (["a/b"], "a/b", True),
        (["a/b"], "x/a/b", False),
        (["**/a/b"], "x/a/b", True),
        (["**/a"], "a", True),
        (["a/**"], "a/x/y", True),
        (["a/**"], "a", False),
        (["a/**/b"], "a/b", True),
        (["a/**/b"], "a/x/y/b", True),
        (["*.txt"], "a/b.txt", True),
        (["a/*"], "a/b/c", False),
        (["f*o.json"], "foo.json", True),
        (["fo?"], "foo", True),
        (["fo?"], "fo", False),
        (["[a-c]x"], "bx", True),
        (["[!a-c]x"], "bx", False),
        (["[]]x"], "]x", True),
        (["\\!name"], "!name", True),
        (["#name"], "#name", False),
        (["\\#name"], "#name", True),
        (["name  "], "name", True),
        (["a.b"], "axb", False),
        (["*.txt", "!keep.txt"], "keep.txt", False),
        (["*.txt", "!keep.txt", "keep*"], "keep.txt", True),
        ([""], "", False),
        # Unlike there, case does not count.
        (["Name"], "nAME", True),
        (["*.pem"], "KEY.PEM", True),
    ],
)
def test_patterns_match_as_in_gitignore(patterns: list[str], path: str, matches: bool) -> None:
    assert Patterns(patterns).match(path, folder=False) is matches


def test_a_slash_at_the_end_means_folders_only() -> None:
    patterns = Patterns(["name/"])
    assert patterns.match("a/name", folder=True)
    assert not patterns.match("a/name", folder=False)


def test_what_lies_in_a_hidden_folder_is_covered() -> None:
    patterns = Patterns([".git", "a/b/"])
    assert patterns.cover("x/.git/hooks/pre-commit")
    assert patterns.cover("a/b/c")
    assert not patterns.cover("a/b")
    assert not patterns.cover("a/c")


def test_a_pattern_that_is_none_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"Workspace\.hidden: 'x\[z-a\]' is no pattern"):
        Patterns(["x[z-a]"])


@pytest.mark.parametrize(
    "path",
    """
    .env .env.local prod.env a/.git .ssh x/.aws server.key a/b.pem id_rsa id_ed25519.pub .netrc .pypirc credentials
    aws/credentials.json .streamlit/secrets.toml client_secret_1.json home/.config/gcloud terraform.tfstate .jupyter
    kernel-1234.json
    """.split(),
)
def test_the_default_list_hides(path: str) -> None:
    assert Patterns(HIDDEN).match(path, folder=True)


@pytest.mark.parametrize("path", ["data.csv", "env.py", "environment.yml", "keys.txt", "notebook.ipynb", ".gitignore"])
def test_the_default_list_shows(path: str) -> None:
    assert not Patterns(HIDDEN).match(path, folder=False)
