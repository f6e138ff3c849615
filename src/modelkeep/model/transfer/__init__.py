"""Pre-trained weights as the start of a new model, and a report of what went where."""
