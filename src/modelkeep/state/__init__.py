"""What training holds: a tree of nested dicts, lists and tuples whose leaves are numpy arrays and JSON values.

Pure: no framework, no I/O. `tree` turns such a tree into a JSON structure plus arrays named by path, and back;
`compare` says where two trees differ, bit by bit; `paths` holds the grammar of the names.
"""

from modelkeep.state.compare import differences
from modelkeep.state.tree import FlatState, Tree, flatten, select, tensor_paths, unflatten

__all__ = ["FlatState", "Tree", "differences", "flatten", "select", "tensor_paths", "unflatten"]
