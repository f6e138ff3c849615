"""Test suites that are shipped: whoever writes a backend inherits them and has its promises checked."""
