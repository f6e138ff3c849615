"""Predictions from an exported model, without the framework that trained it: one module for each runtime."""
