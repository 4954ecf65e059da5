"""Learning concepts: PALAVRA's own losses and tokens, and the run of a split that is killed and goes on."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from pervl_assets.clip.encoder import load_encoder
from pervl_assets.clip.features import Features
from pervl_assets.clip.token_texts import TokenTexts
from pervl_assets.core.errors import PervlError, SchemaError
from pervl_assets.training.concept_tokens import (
    check_losses,
    check_queries,
    check_tokens,
    encode_with_tokens,
    learn_concepts,
    learn_tokens,
    list_token_columns,
    read_trainings,
)
from pervl_assets.training.losses import compute_token_losses
from pervl_assets.training.set_encoder import list_shapes, run_alignment
from pervl_assets_tests.clip.test_model_families import FAMILIES, write_folder
from pervl_assets_tests.goldens import decode, read_golden, rnd
from pervl_assets_tests.training.test_set_encoder import make_set_encoder

TUNING = {"steps": 3, "learning_rate": 0.01, "temperature": 0.25, "text": "* "}
CONCEPTS = ["anna", "ben", "cleo"]
METHODS = ["PALAVRA", "Only tuning", "Without tuning"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("run", ["readme: negative 'item'", "per class"])
def test_losses_and_tokens_are_those_of_palavra(run, shallow_clip):
    golden = read_golden("optimise_token")
    negatives = golden["classes"] if run == "per class" else ["item"] * 4
    weights = {
        name: torch.from_numpy(0.05 * rnd(f"map/{name}", *shape))
        for name, shape in list_shapes(512, 512, 32).items()
        if name.startswith("layers")
    }
    texts = unit(shallow_clip._encoder.encode_texts(negatives))
    tokens, losses = learn_tokens(
        shallow_clip,
        unit(rnd("optimise/images", 4, 5, 512)).mean(axis=1),
        run_alignment(weights, torch.from_numpy(texts)).numpy(),
        0.02 * rnd("tokens", 4, 512),
        **{**TUNING, "steps": 30},
    )
    assert np.allclose(losses.mean(axis=1), golden["runs"][run]["losses"], atol=1e-3)
    assert np.abs(tokens - decode(golden["runs"][run]["tokens"], 4, 512)).max() < 1e-3


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny CLIP whose vectors have 24 numbers and its tokens 16."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_folder(folder, FAMILIES["OpenAI"] | {"embed_dim": 24})
    return load_encoder(str(folder), "", "cpu", "fp32", "model")


def make_trained(seed, passport, **changes):
    """A set encoder that was trained with the CLIP of a passport."""
    trained = make_set_encoder(24, 16, 8, seed)
    return replace(trained, passport=replace(trained.passport, encoder=passport, **changes))


def make_draws(seeds=(1, 2), shots=5):
    """Every concept has three images, of which each draw has five."""
    rows = [
        ("palavra", seed, concept, shot, f"codes_infer/{concept}/{(shot * seed) % 3}.jpg")
        for seed in seeds
        for concept in CONCEPTS
        for shot in range(shots)
    ]
    columns = {"scheme": pl.String, "seed": pl.Int32, "concept": pl.String, "shot": pl.Int32, "image": pl.String}
    return pl.DataFrame(rows, columns, orient="row")


def make_images(encoder):
    ids = [f"codes_infer/{concept}/{row}.jpg" for concept in CONCEPTS for row in range(3)]
    return Features(ids, rnd("images", 9, 24), encoder.passport, [0] * 9)


def learn(encoder, work, draws=None, images=None, seeds=(1, 2), mode="palavra", **changes):
    """Learn, and return the result and the files of `work` that were saved: one per method of a seed."""
    saved, used = [], changes.pop("trained_with", encoder.passport)
    on_progress = changes.pop("on_progress", lambda done, total: None)
    learned = learn_concepts(
        make_draws() if draws is None else draws,
        make_images(encoder) if images is None else images,
        {"ben": "dog"},
        [(seed, make_trained(seed, used, mode=mode)) for seed in seeds],
        encoder.passport,
        changes.pop("load", lambda: encoder),
        changes.pop("negative", "item"),
        {**TUNING, **changes},
        work,
        on_progress,
        saved.append,
    )
    return learned, saved


def test_every_concept_has_a_token_by_every_method_and_seed(encoder, tmp_path):
    calls = []
    learned, saved = learn(encoder, tmp_path, on_progress=lambda *numbers: calls.append(numbers))
    assert sorted(saved) == sorted(tmp_path.iterdir())
    list_token_columns(16).validate(learned.tokens, "tokens")
    assert learned.tokens.select("method", "seed").unique(maintain_order=True).rows() == [
        (method, seed) for seed in (1, 2) for method in METHODS
    ]
    assert learned.tokens["concept"].to_list() == CONCEPTS * 6
    assert check_tokens(learned.tokens, make_draws(), 2).passed
    assert check_losses(learned.tokens).passed
    assert calls == [(done, 18) for done in range(3, 19, 3)]
    assert {method: len(curve) for method, curve in learned.losses.items()} == {"PALAVRA": 3, "Only tuning": 3}
    untuned = learned.tokens.filter(method="Without tuning")
    assert untuned["first_loss"].null_count() == untuned.height
    tuned = learned.tokens.filter(method="PALAVRA")
    assert np.mean(tuned["first_loss"].to_list()) == pytest.approx(learned.losses["PALAVRA"][0])
    assert np.allclose(np.abs(tuned["token"].to_numpy() - untuned["token"].to_numpy()).max(), 0.03, atol=0.003)


def test_an_image_drawn_twice_counts_twice(encoder, tmp_path):
    """Draws of one image five times are draws of it once; of two images, the numbers of each matter."""
    once = make_draws(shots=1)
    often = pl.concat([once.with_columns(shot=pl.lit(shot, pl.Int32)) for shot in range(5)])
    tokens = [learn(encoder, tmp_path / str(n), draws)[0].tokens for n, draws in enumerate((once, often))]
    assert np.allclose(*(one.sort("method", "seed", "concept")["token"].to_numpy() for one in tokens), atol=1e-5)
    assert not learn(encoder, tmp_path / "2")[0].tokens.equals(tokens[0])


def test_a_killed_run_goes_on_with_the_same_result(encoder, tmp_path):
    whole, _ = learn(encoder, tmp_path / "whole")
    calls = []

    def die():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encoder

    with pytest.raises(KeyboardInterrupt):
        learn(encoder, tmp_path / "killed", load=die)
    again, saved = learn(encoder, tmp_path / "killed")
    assert len(saved) == 3  # seed 1 was done
    assert again.tokens.equals(whole.tokens)
    assert again.losses == whole.losses
    _, saved = learn(encoder, tmp_path / "killed", load=pytest.fail)
    assert saved == []
    damaged = next((tmp_path / "killed").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert len(learn(encoder, tmp_path / "killed")[1]) == 1


@pytest.mark.parametrize(
    "change", [{"steps": 4}, {"negative": "thing"}, {"draws": make_draws(shots=2)}, {"seeds": (2, 1)}]
)
def test_what_was_saved_of_other_inputs_is_not_used(change, encoder, tmp_path):
    learn(encoder, tmp_path)
    _, saved = learn(encoder, tmp_path, **change)
    assert len(saved) == (0 if "seeds" in change else 6)


def test_in_the_mode_of_the_paper_a_concept_differs_from_its_class(encoder, tmp_path):
    one, other = (learn(encoder, tmp_path / mode, seeds=(1,), mode=mode)[0].tokens for mode in ("palavra", "paper"))
    moved = np.abs(one["token"].to_numpy() - other["token"].to_numpy()).max(axis=1) > 1e-4
    assert set(one.filter(moved)["concept"]) == {"ben"}  # the others have no class here
    assert set(one.filter(moved)["method"]) == {"PALAVRA", "Only tuning"}


def test_images_without_a_vector_are_left_out(encoder, tmp_path):
    images = make_images(encoder).take([1, 2, 3, 4, 5])  # of anna two, of ben three, of cleo none
    learned, _ = learn(encoder, tmp_path, images=images)
    assert learned.tokens["concept"].unique(maintain_order=True).to_list() == ["anna", "ben"]
    found = check_tokens(learned.tokens, make_draws(), 2)
    assert found.text == "6 of 18 tokens missing or not finite, of the concepts cleo"
    assert not found.passed


def test_more_concepts_than_a_batch_are_moved_by_momentum(encoder):
    """As one `Embedding` under Adam, whose rows outside of the batch have a gradient of zero."""
    texts = TokenTexts(encoder)
    images, negatives, starts = unit(rnd("more/i", 3, 24)), unit(rnd("more/n", 3, 24)), 0.02 * rnd("more/s", 3, 16)
    tokens, losses = learn_tokens(texts, images, negatives, starts, **TUNING, batch_size=2)
    table = torch.nn.Embedding.from_pretrained(torch.from_numpy(starts.copy()), freeze=False)
    adam = torch.optim.Adam(table.parameters(), 0.01)
    for step in range(3):
        for rows in ([0, 1], [2]):
            vectors = texts.encode(["*"] * len(rows), table(torch.tensor(rows)))
            loss = compute_token_losses(
                *map(torch.from_numpy, (images[rows],)), vectors, torch.from_numpy(negatives[rows]), 0.25
            )
            adam.zero_grad()
            loss.mean().backward()
            adam.step()
            assert np.allclose(losses[step, rows], loss.detach().numpy(), atol=1e-6)
    assert np.allclose(tokens, table.weight.detach().numpy(), atol=1e-6)


def test_queries_get_the_vector_of_their_concepts_token(encoder, tmp_path):
    tokens = learn(encoder, tmp_path)[0].tokens
    rows = [
        ("q/0", "ben", "a photo of a dog *"),
        ("q/1", "anna", "* on a sofa"),
        ("q/2", "dora", "a *"),
        ("q/3", "ben", "long " * 16 + "*"),
    ]
    queries = pl.DataFrame(rows, ["query_id", "concept", "text"], orient="row")
    features = encode_with_tokens(queries, tokens, encoder)
    assert features.ids == [f"{method}/{seed}/q/{n}" for seed in (1, 2) for method in METHODS for n in (0, 1)]
    anna = tokens.filter(method="Only tuning", seed=2, concept="anna")["token"].to_numpy()
    expected = TokenTexts(encoder).encode(["* on a sofa"], torch.from_numpy(anna.copy())).numpy()
    found = check_queries(features, queries, tokens)
    assert found.text.startswith("12 vectors of 4 queries. 2 queries without, whose concept has no token or ")
    assert found.text.endswith("too long for the model: q/2, q/3")
    assert check_queries(features, queries[:2], tokens).passed
    assert np.allclose(features.vectors[features.ids.index("Only tuning/2/q/1")], expected, atol=1e-5)


@pytest.mark.parametrize("part", ["images", "trained_with"])
def test_images_and_set_encoders_of_another_clip_are_refused(part, encoder, tmp_path):
    other = replace(encoder.passport, weights_sha256="f" * 64)
    given = other if part == "trained_with" else replace(make_images(encoder), passport=other)
    with pytest.raises(PervlError, match=f"with another CLIP than the one in use: weights_sha256 {'f' * 64} / "):
        learn(encoder, tmp_path, seeds=(1,), **{part: given})


def test_tokens_say_how_they_were_learned_and_are_refused_with_another_clip(encoder, tmp_path):
    used = replace(encoder.passport, preprocessing="another")  # texts do not depend on it
    tokens = learn(encoder, tmp_path, trained_with=used)[0].tokens
    queries = pl.DataFrame([("q/0", "ben", "a *")], ["query_id", "concept", "text"], orient="row")
    note = encode_with_tokens(queries, tokens, encoder).passport.tokens
    assert [(one.seed, one.encoder) for one in read_trainings(note)] == [(1, used), (2, used)]
    changed = tokens.with_columns(pl.col("training").str.replace(encoder.passport.weights_sha256, "f" * 64))
    with pytest.raises(PervlError, match="The tokens were learned with another CLIP than the one in use: weights_sha"):
        encode_with_tokens(queries, changed, encoder)
    for unknown in (tokens.with_columns(training=pl.lit("[1]")), tokens.drop("training")):
        with pytest.raises(SchemaError, match="do not say how their inversion model was trained"):
            encode_with_tokens(queries, unknown, encoder)
    with pytest.raises(SchemaError, match="do not say how their inversion model was trained"):
        read_trainings("")


def test_what_an_earlier_version_saved_is_not_used(encoder, tmp_path, monkeypatch):
    learn(encoder, tmp_path)
    monkeypatch.setattr("pervl_assets.training.concept_tokens.VERSION", "0")
    assert len(learn(encoder, tmp_path)[1]) == 6


def test_a_loss_that_is_not_finite_is_an_error(encoder, tmp_path):
    images = make_images(encoder)
    images.vectors[4] = np.nan
    with pytest.raises(PervlError, match=r"The loss of 1 of 3 concepts is not finite \(seed 1, PALAVRA\): ben\."):
        learn(encoder, tmp_path, images=images, seeds=(1,))


def test_losses_that_rise_are_found(encoder, tmp_path):
    tokens = learn(encoder, tmp_path)[0].tokens.with_columns(last_loss=pl.col("first_loss") * 2)
    assert check_losses(tokens).text == "12 of 12 losses did not fall"
