"""torch only: where Keras cannot find a shape symbolically, it computes with real arrays of the declared shapes."""

import math
from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from modelkeep.model.guard import Ledger

_MAKERS = {"empty", "zeros", "ones", "full", "rand", "randn", "randint", "arange", "linspace", "eye", "new_empty"}


class Ceiling(TorchDispatchMode):
    """Within this context no single array is made that is larger than the budget."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Check what makes arrays, before it does; let everything through to torch."""
        options = kwargs or {}
        if func.overloadpacket.__name__ in _MAKERS and str(options.get("device")) != "meta":
            sizes = next((list(arg) for arg in args if isinstance(arg, list | tuple)), [])
            numbers = [abs(arg) for arg in args if isinstance(arg, int | float) and math.isfinite(arg)]
            self._ledger.check(sizes or [int(max(numbers, default=0))], "float32")
        return func(*args, **options)
