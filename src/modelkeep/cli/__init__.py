"""The command `modelkeep`: one file per command; `main` puts them together and maps errors to exit codes."""

from modelkeep.cli.main import main

__all__ = ["main"]
