"""When a training is saved, and how it goes on: the run, its policy, its writer, signals, environment and seeds.

``run`` is the training as the keep knows it, ``start`` decides whether and where it goes on, ``writer`` is the
background thread; ``keras`` drives a training loop with them.
"""
