"""A portable MODEL: its architecture as JSON that anybody may have written, and the safe way back to a Keras model.

The story runs `architecture` (describe a model), `allowlist` (what may be built), `walk` (everything is checked, and
nothing is built), `guard` (the budget holds while Keras builds), `build` (the model); then `contents` (what a version
holds), `publish`, `load` and `foreign`. A name in a file is looked up; it is never imported, and no path or address in
it is opened.
"""
