"""Losses of the inversion model and of learning concepts (PALAVRA, arXiv 2204.01694, section 4, and its code).

All take float tensors whose rows are vectors of any length, not normalised. torch is imported inside functions only.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def compute_cycle_loss(queries: "torch.Tensor", targets: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Return the symmetric contrastive loss (NT-Xent) of a batch.

    Each of the 2 B vectors must be more similar to its partner than to all others:
    -log( exp(cos(w_i, partner) / T) / sum over j != i of exp(cos(w_i, w_j) / T) ), averaged. In the paper's equation 1
    the targets are mean image embeddings; its code gives texts (quirk T3).

    Args:
        queries: (B, D).
        targets: Partners of the queries, (B, D).
        temperature: T.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    vectors = normalize(torch.cat([queries, targets]), dim=-1)
    similar = (vectors @ vectors.T / temperature).fill_diagonal_(-math.inf)
    return cross_entropy(similar, torch.arange(len(vectors), device=vectors.device).roll(len(queries)))


def compute_ground_truth_loss(tokens: "torch.Tensor", words: "torch.Tensor") -> "torch.Tensor":
    """Return the mean of 2 - 2 cos of tokens (B, W) with the word embeddings (B, W) that they should be near.

    It is 512 times the mean squared difference of the normalised vectors, PALAVRA's loss with its weight at W = 512.
    Relative to the paper's -cos its weight is therefore 2, not 512 (quirk T4).
    """
    from torch.nn.functional import cosine_similarity

    return (2 - 2 * cosine_similarity(tokens, words, dim=-1)).mean()


def compute_token_losses(
    images: "torch.Tensor", texts: "torch.Tensor", negatives: "torch.Tensor", temperature: float
) -> "torch.Tensor":
    """Return the loss of each concept while its token is learned, (C,).

    It is `compute_cycle_loss` of the two pairs (image, text) and (negative, negative), written out: with s, a and b the
    similarities image-text, image-negative and text-negative, and e(x) = exp(x / T),
    1/4 [ -log(e(s) / (e(s) + 2 e(a))) - log(e(s) / (e(s) + 2 e(b))) - 2 log(e(1) / (e(1) + e(a) + e(b))) ].
    The paper's equation 2 has the first two terms.

    Args:
        images: Mean image features of the concepts, (C, D).
        texts: Features of the texts with their tokens, (C, D).
        negatives: Aligned features of the texts that they must differ from, (C, D).
        temperature: T.
    """
    import torch
    from torch.nn.functional import cosine_similarity, softplus

    s, a, b = (
        cosine_similarity(one, other, dim=-1) / temperature
        for one, other in ((images, texts), (images, negatives), (texts, negatives))
    )
    own = 2 * torch.log1p(torch.exp(a - 1 / temperature) + torch.exp(b - 1 / temperature))
    return (softplus(math.log(2) + a - s) + softplus(math.log(2) + b - s) + own) / 4
