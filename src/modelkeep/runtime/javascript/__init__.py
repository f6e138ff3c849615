"""Exports run as a browser runs them: by programs of ours (``*.js``) under Node, or in a headless browser."""
