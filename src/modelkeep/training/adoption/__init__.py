"""A training that another tool has checkpointed goes on as a run.

``reading`` finds what such a checkpoint holds, ``adopting`` makes it the first checkpoint of a run, and ``placing``
puts it into the objects of a program when that starts: only then is it known which array belongs where. ``kinds`` is
what all of them, and each start of a run, know it by.
"""
