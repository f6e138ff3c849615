"""Where a keep lies when nobody says: ``$MODELKEEP_KEEP``, else ``./keep``."""

import os

VARIABLE = "MODELKEEP_KEEP"


def default_place() -> str:
    """Return the path or URL of the default keep.

    >>> bool(default_place())
    True
    """
    return os.environ.get(VARIABLE) or "keep"
