import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.training.losses import compute_cycle_loss, compute_ground_truth_loss, compute_token_losses
from pervl_assets_tests.goldens import read_golden, rnd


def draw(*names):
    return [torch.from_numpy(rnd(f"loss/{name}", 5, 512)) for name in names]


def test_losses_are_those_of_palavra():
    golden = read_golden("losses")
    v1, v2, means, texts, coarse = draw("v1", "v2", "means", "emb", "coarse")
    found = {
        "contrastive_loss(v1,v2,T=0.25)": compute_cycle_loss(v1, v2, 0.25),
        "contrastive_loss(v1, v1+0.1*v2, T=0.25)": compute_cycle_loss(v1, v1 + 0.1 * v2, 0.25),
        "512*l2_norm_loss(v1,v2)": compute_ground_truth_loss(v1, v2),
        "l2_norm_loss(v1,v2)": compute_ground_truth_loss(v1, v2) / 512,
        "mean(2-2cos(v1,v2))": compute_ground_truth_loss(v1, v2),
    }
    token = "token loss: calc_contrastive_loss_with_coarse_grained_token(means,emb,coarse,0.25)"
    found[token] = compute_token_losses(means, texts, coarse, 0.25).mean()
    found["the same, emb=means+0.1*emb"] = compute_token_losses(means, means + 0.1 * texts, coarse, 0.25).mean()
    assert found.keys() == golden.keys() - {"how"}
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(
        {name: golden[name] for name in found}, abs=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(2, 9), st.floats(0.05, 2))
def test_the_loss_of_a_token_is_the_cycle_loss_of_two_pairs(seed, dimension, temperature):
    images, texts, negatives = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 4, dimension)))
    pairs = [
        compute_cycle_loss(torch.stack([z, eta]), torch.stack([text, eta]), temperature)
        for z, text, eta in zip(images, texts, negatives, strict=True)
    ]
    assert torch.allclose(compute_token_losses(images, texts, negatives, temperature), torch.stack(pairs))


def test_losses_do_not_depend_on_lengths_and_are_least_for_equal_vectors():
    v1, v2 = draw("v1", "v2")
    assert float(compute_cycle_loss(3 * v1, v2, 0.25)) == pytest.approx(float(compute_cycle_loss(v1, v2, 0.25)))
    assert compute_cycle_loss(v1, v1, 0.25) < compute_cycle_loss(v1, v2, 0.25)
    assert abs(float(compute_ground_truth_loss(v1, 3 * v1))) < 1e-6
