"""The door to each framework: what it holds, as a state tree with stable names, and back.

One module each, imported only when it is used: ``import modelkeep`` loads no framework. The verbs are the same
everywhere: ``state_of(obj) -> tree`` and ``load_into(obj, tree)``, or ``restore(like, tree)`` where values are
immutable (jax).
"""
