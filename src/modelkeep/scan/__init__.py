"""What foreign files would do if they were loaded: told from their bytes, by code that loads nothing.

One module for each format, each a function from a source of bytes to findings; ``kinds`` tells formats apart, and
``face`` joins them. This package is independent of the importers, so that a fault in one is no fault in the other.
"""

from modelkeep.scan.face import scan
from modelkeep.scan.findings import Finding, ScanReport, Severity

__all__ = ["Finding", "ScanReport", "Severity", "scan"]
