"""Texts in which a learned token takes the place of `*`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pervl_assets.clip.encoder import TEXT_BATCH, ClipEncoder
from pervl_assets.core.errors import CheckpointError, PervlError, name_some

if TYPE_CHECKING:
    import torch

_PLACEHOLDER: Final = "*"
"""The word of a text that a learned token replaces."""


class TokenTexts:
    """Encodes texts with learned tokens (PALAVRA's `encode_text_with_learnt_tokens`).

    The word embedding of the first `*` of a text is replaced by a token, and the text is encoded as any other: with
    positions, transformer, end-of-text and projection of the tower itself. Any further `*` is a word.

    Args:
        encoder: A CLIP whose text tower is open_clip's own.

    Attributes:
        width: Length W of a token, which may differ from the dimension D of the vectors.

    Raises:
        CheckpointError: The tower has no table of word embeddings, or the tokenizer no number of its own for `*`.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self._table: Any = getattr(encoder.text_tower, "token_embedding", None)
        if self._table is None:
            raise _refuse(encoder, "its text tower has no table of word embeddings")
        star, nothing = encoder.tokenize([_PLACEHOLDER, ""])
        own = np.flatnonzero(np.isin(star, nothing, invert=True))
        if len(own) != 1:
            raise _refuse(encoder, f"its tokenizer makes {len(own)} tokens of {_PLACEHOLDER!r}, not one")
        self._first, self._star = own[0], star[own[0]]
        self.width: int = self._table.embedding_dim

    def encode(self, texts: list[str], tokens: "torch.Tensor") -> "torch.Tensor":
        """Encode texts in one forward pass that is differentiable in the tokens.

        Args:
            texts: M texts, each with a `*`.
            tokens: One per text, (M, W). They are cast to the model's precision, as upstream does.

        Returns:
            Vectors, float32 of shape (M, D) on the model's device, not normalised.

        Raises:
            PervlError: A text has no `*`, or it is behind the end of the context.
        """
        return self._forward(self._tokenize(texts), tokens)

    def encode_all(
        self,
        texts: list[str],
        tokens: npt.NDArray[np.float32],
        batch_size: int = TEXT_BATCH,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """Encode any number of texts without gradients: equal pairs of text and token once, short texts together.

        Args:
            texts: M texts, each with a `*`.
            tokens: One per text, float32 (M, W).
            batch_size: Texts in one forward pass.
            on_progress: Called after every batch with the number of different pairs done and their total.

        Returns:
            Vectors, float32 of shape (M, D), not normalised.

        Raises:
            PervlError: As `encode`; also if the device's memory does not hold a single text, or a vector is not finite.
        """
        import torch

        pairs: dict[tuple[str, bytes], int] = {}
        rows = [
            pairs.setdefault((text, token.tobytes()), len(pairs)) for text, token in zip(texts, tokens, strict=True)
        ]
        _, first = np.unique(np.asarray(rows, np.int64), return_index=True)
        numbers = self._tokenize([texts[row] for row in first])

        def forward(part: npt.NDArray[np.int64]) -> torch.Tensor:
            return self._forward(numbers[part], torch.from_numpy(tokens[first[part]]))

        return self._encoder.encode_by_length(numbers, forward, batch_size, on_progress)[rows]

    def embed_first_tokens(self, words: list[str]) -> "torch.Tensor":
        """Return the word embedding of the first token of every text, float32 (M, W): of `sofa bed` that of `sofa`.

        A long word may be several tokens. An empty text has that of end-of-text.
        """
        import torch

        numbers = torch.from_numpy(self._encoder.tokenize(words)[:, self._first].copy())
        table: torch.Tensor = self._table.weight
        return table[numbers.to(table.device)].float()

    def have_place(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        """Return whether each text has a `*` within the tokens that the model reads, (M,)."""
        return self._find_places(texts)[1]

    def _find_places(self, texts: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        # Blanks around it, because the tokenizer would take `*.` for one word; blanks are no tokens.
        numbers = self._encoder.tokenize([text.replace(_PLACEHOLDER, f" {_PLACEHOLDER} ", 1) for text in texts])
        return numbers, (numbers == self._star).any(axis=1)

    def _tokenize(self, texts: list[str]) -> npt.NDArray[np.int64]:
        numbers, have_place = self._find_places(texts)
        if without := [repr(text) for text, found in zip(texts, have_place, strict=True) if not found]:
            raise PervlError(
                f"{len(without):,} of {len(texts):,} texts without {_PLACEHOLDER!r} for a learned token within the "
                f"{numbers.shape[1]} tokens that {self._encoder.passport.model} reads.",
                details=[name_some(without, 3)],
                advice=f"Write one {_PLACEHOLDER!r} into every text, and shorten long ones.",
            )
        return numbers

    def _forward(self, numbers: npt.NDArray[np.int64], tokens: "torch.Tensor") -> "torch.Tensor":
        import torch

        first = np.arange(numbers.shape[1]) == (numbers == self._star).argmax(axis=1)[:, None]
        places = torch.from_numpy(first)[..., None]

        def insert(table: object, inputs: object, words: torch.Tensor) -> torch.Tensor:
            return torch.where(places[:, : words.shape[1]].to(words.device), tokens.to(words)[:, None], words)

        hook = self._table.register_forward_hook(insert)
        try:
            return self._encoder.forward_texts(numbers).float()
        finally:
            hook.remove()


def _refuse(encoder: ClipEncoder, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{encoder.passport.model} cannot encode texts with learned tokens: {reason}.",
        advice="Choose a CLIP whose text tower is open_clip's own, e.g. ViT-B-32-quickgelu or ViT-L-14-quickgelu. "
        "Features of plain texts and images need none.",
    )
