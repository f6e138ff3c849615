"""Models back out into the formats of others: one module for each, written whole or not at all, and read back."""

from modelkeep.exporters.export import FORMATS, check_format, export
from modelkeep.exporters.source import Source

__all__ = ["FORMATS", "Source", "check_format", "export"]
