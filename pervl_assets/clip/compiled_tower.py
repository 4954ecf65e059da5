"""`torch.compile` on an image tower, where it can be had.

Belongs here: compiling, and going on without it. Does not belong here: whether it is wanted, which is the passport's to
say: a compiled tower's vectors differ from the plain one's in their last bits.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

_LENGTH: Final = 300
_log = logging.getLogger(__name__)


def compile_tower(tower: Any, report_failure: Callable[[str], None]) -> None:
    """Let a tower compile itself when it is first called.

    Where that fails (no C compiler, a system or Python that torch cannot compile for, a layer that it cannot), a
    warning names the reason and the tower runs as it is, then and later.

    Args:
        tower: A torch module; its `forward` is replaced.
        report_failure: Called with the kind of failure.
    """
    import torch

    plain = tower.forward
    compiled: list[Callable[..., Any]] = []

    def forward(*inputs: Any) -> Any:
        try:
            if not compiled:
                compiled.append(torch.compile(plain))
            return compiled[0](*inputs)
        except torch.OutOfMemoryError:  # the encoder's: it halves the batch
            raise
        except Exception as error:  # whatever stands behind the compiler raises types of its own
            # Torch's messages are pages long; what failed stands in the first lines.
            reason = " ".join([type(error).__name__ + ":", *str(error).split()])[:_LENGTH]
            _log.warning("PERVL_COMPILE: the image tower runs uncompiled: %s", reason)
            tower.forward = plain
            report_failure(type(error).__name__)
        return plain(*inputs)

    tower.forward = forward
