"""The demonstration: a real training, killed three times, ends with the bits of the one that was left alone.

``training`` is the script that is killed; ``show`` runs it, compares and tells; ``picture`` draws the curves.
"""

from modelkeep.demo.show import main

__all__ = ["main"]
