"""A text tower run on as many of its positions as the texts need.

Belongs here: how long tokenized texts are, and cutting the tower to that. Does not belong here: batches and forward
passes, which are `clip_encoder`'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt


def count_tokens(tokens: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return how many tokens each text has, the end-of-text token included: it has the highest number of all."""
    return np.asarray(tokens.argmax(axis=1) + 1)


@contextmanager
def cut_context(model: Any, length: int) -> Iterator[None]:
    """Let a text tower run on its first positions only.

    With a causal mask, and the feature taken at the end-of-text token, the padding behind it changes nothing: a prompt
    of 9 tokens costs a ninth of the 77 positions.
    """
    if getattr(model, "text_pool_type", None) != "argmax" or getattr(model, "attn_mask", None) is None:
        yield
        return
    positions, mask = model.positional_embedding.data, model.attn_mask
    model.positional_embedding.data, model.attn_mask = positions[:length], mask[:length, :length]
    try:
        yield
    finally:
        model.positional_embedding.data, model.attn_mask = positions, mask
