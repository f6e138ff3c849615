"""A training that another tool has checkpointed goes on as a run.

``reading`` finds what such a checkpoint holds, ``adopting`` makes it the first checkpoint of a run, and ``placing``
puts it into the objects of a program when that starts: only then is it known which array belongs where.
"""

from modelkeep.training.adoption.adopting import Adopted, adopt, is_adoption
from modelkeep.training.adoption.placing import Placed, adopted_of, begun_epoch, place_in_keras, place_in_loop
from modelkeep.training.adoption.reading import read_training

__all__ = [
    "Adopted",
    "Placed",
    "adopt",
    "adopted_of",
    "begun_epoch",
    "is_adoption",
    "place_in_keras",
    "place_in_loop",
    "read_training",
]
