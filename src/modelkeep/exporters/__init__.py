"""Models back out into the formats of others: one module for each, written whole or not at all, and read back."""
