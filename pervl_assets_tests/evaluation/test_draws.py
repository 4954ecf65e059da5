"""Few-shot draws: PALAVRA's images of every official concept, POLAR's order, and concepts with few or no images."""

import random

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.evaluation.draws import DRAWS, check_shots, list_draws, list_few_shot
from pervl_assets.evaluation.protocols import CONCON_CHI, DISTINCT, PALAVRA, POLAR
from pervl_assets_tests.evaluation.kit import SEARCHED, hash_lines, list_outputs, read_tables
from pervl_assets_tests.goldens import read_golden

TREES = {
    "df_validation": ("deep_fashion", "validation"),
    "df_test": ("deep_fashion", "test"),
    "ytvos_val": ("ytvos", "validation"),
    "ytvos_test": ("ytvos", "test"),
}
ALL = (PALAVRA.draws, DISTINCT, POLAR.draws, CONCON_CHI.draws)


def show(draws: pl.DataFrame, scheme: str, seed: int) -> list[str]:
    """Return the lines that PALAVRA's figures are the hash of: concept and stems, for videos only the frame."""
    drawn = draws.filter(scheme=scheme, seed=seed).with_columns(stem=pl.col("image").str.extract(r"([^/_]+)\.jpg$"))
    lines = drawn.group_by("concept", maintain_order=True).agg(pl.col("stem").str.join(","))
    return [f"{concept}:{stems}" for concept, stems in lines.iter_rows()]


def make_ledger(sizes: dict[str, int], lost: tuple[str, ...] = ()) -> pl.DataFrame:
    rows = [(f"eval/test/{concept}.jpg", concept, "written") for concept in sizes]
    for concept, images in sizes.items():
        paths = [f"codes_infer/{concept}/{number:03d}.jpg" for number in range(images)]
        rows += [(path, concept, "quarantined" if path in lost else "written") for path in paths]
    return pl.DataFrame([*rows, ("notes.txt", "", "written")], schema=["path", "concept", "status"], orient="row")


def test_the_images_are_those_that_palavra_draws(shared):
    golden = read_golden("fewshot")
    for tree, of_seed in golden["trees"].items():
        few_shot = list_few_shot(list_outputs(shared, *TREES[tree]))
        assert sum(map(len, few_shot.values())) == of_seed["images"]
        draws = list_draws(few_shot, (), (PALAVRA.draws, DISTINCT), repetitions=5)
        compared = 0
        for what, expected in of_seed.items():
            if what == "images" or "error" in expected:  # the latter where PALAVRA stops at a concept with four
                continue
            scheme = "palavra" if what.endswith("with replacement") else "distinct"
            lines = show(draws, scheme, int(what.split()[1].strip(",")))
            assert hash_lines(lines) == expected["sha256"], (tree, what)
            compared += 1
        assert compared == (10 if tree.startswith("df") else 5)
        rows = check_shots(few_shot, DISTINCT).rows
        assert dict(rows.iter_rows()) == golden["fewer_than_5"][tree]


def test_a_concept_of_four_images_has_four_different_ones(shared):
    few_shot = list_few_shot(list_outputs(shared, "ytvos", "test"))
    draws = list_draws(few_shot, (), (DISTINCT,), repetitions=2)
    sizes = draws.group_by("seed", "concept").agg(shots=pl.len(), images=pl.col("image").n_unique())
    assert (sizes["shots"] == sizes["images"]).all()
    assert sizes["shots"].value_counts().sort("shots").rows() == [(4, 60), (5, 444)]


def test_polar_draws_from_the_order_of_the_annotations(shared):
    _, retrieval, _ = SEARCHED["deep_fashion"]
    tables = read_tables(shared, "deep_fashion")
    annotated = retrieval.list_few_shot(tables, "test")
    few_shot = list_few_shot(list_outputs(shared, "deep_fashion", "test"))
    assert sorted(annotated) == [path for images in few_shot.values() for path in images]
    drawn = list_draws(few_shot, annotated, (POLAR.draws,), 5)
    assert drawn["seed"].unique().to_list() == [123]
    concept = next(iter(few_shot))
    in_order = [path for path in annotated if path.startswith(f"codes_infer/{concept}/")]
    state = random.getstate()
    random.seed(123)
    expected = random.sample(in_order, 5)
    random.setstate(state)
    assert drawn.filter(concept=concept)["image"].to_list() == expected


def test_the_order_of_the_annotations_counts_only_where_a_scheme_says_so():
    few_shot = list_few_shot(make_ledger({"a": 7}))
    backwards = few_shot["a"][::-1]
    sorted_draws, other = (list_draws(few_shot, order, ALL, 2) for order in ((), backwards))
    differ = sorted_draws.filter(sorted_draws["image"] != other["image"])
    assert differ["scheme"].unique().to_list() == ["polar"]
    assert list_draws(few_shot, backwards[2:], (POLAR.draws,), 1).height == 5


def test_a_quarantined_image_is_not_drawn_and_a_concept_without_images_has_no_number():
    lost = ("codes_infer/a/000.jpg", "codes_infer/b/000.jpg", "codes_infer/b/001.jpg")
    few_shot = list_few_shot(make_ledger({"a": 3, "b": 2, "c": 6, "d": 0}, lost))
    assert {concept: len(images) for concept, images in few_shot.items()} == {"a": 2, "b": 0, "c": 6, "d": 0}
    draws = list_draws(few_shot, (), ALL, 1)
    assert not set(draws["image"]) & set(lost)
    assert set(draws["concept"]) == {"a", "c"}
    as_folder = list_few_shot(make_ledger({"a": 3, "c": 6}, lost))
    assert list_draws(as_folder, (), ALL, 1).equals(draws)
    found = check_shots(few_shot, DISTINCT)
    assert found.text == (
        "3 of 4 concepts with fewer than 5 few-shot images: a, b, d. Without any, so not learned: 2: b, d"
    )
    assert check_shots({"c": few_shot["c"]}, DISTINCT).passed


@settings(deadline=None)
@given(
    sizes=st.dictionaries(st.text("ab1", min_size=1, max_size=3), st.integers(0, 9), max_size=5),
    seeds=st.integers(1, 3),
)
def test_draws_are_of_the_concept_and_leave_global_generators_alone(sizes, seeds):
    few_shot = list_few_shot(make_ledger(sizes))
    before = random.getstate(), np.random.get_state()[1].tolist()
    draws = DRAWS.validate(list_draws(few_shot, (), ALL, seeds), "draws")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert draws.equals(list_draws(few_shot, (), ALL, seeds))
    for (scheme, _, concept), mine in draws.group_by("scheme", "seed", "concept"):
        images = few_shot[concept]
        shots = {"palavra": 5, "all": len(images)}.get(scheme, min(5, len(images)))
        assert mine["shot"].to_list() == list(range(shots))
        assert set(mine["image"]) <= set(images)
        assert scheme == "palavra" or mine["image"].is_unique().all()
    filled = sum(map(bool, few_shot.values()))
    assert draws.select("scheme", "seed", "concept").n_unique() == (2 * seeds + 2) * filled
