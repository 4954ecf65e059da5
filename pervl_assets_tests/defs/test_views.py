"""The views as assets: made in the waves of `pervl materialize`, from all splits of their source."""

from pervl_assets.testing.runs import explain, list_checks, run_selection
from pervl_assets_tests.core.samples import photograph

SELECTION = "+group:deep_fashion"
ROOTS = ("concon_chi", "polar", "imagefolder/deep_fashion/validation", "imagefolder/deep_fashion/test")


def test_views_are_links_to_the_trees_and_follow_them(data, instance):
    results = run_selection(data, SELECTION, instance)
    assert all(result.success for result in results), [explain(result) for result in results]
    images = {path.name: path for path in (data / "deep_fashion2").glob("personalized_*/**/*.jpg")}
    seen = {root: list((data / "views" / root).rglob("*.jpg")) for root in ROOTS}
    assert len(seen["concon_chi"]) == len(seen["polar"]) == len(images)
    assert sum(len(seen[root]) for root in ROOTS[2:]) == len(images)
    assert all(path.samefile(images[path.name]) for paths in seen.values() for path in paths)
    checks = list_checks(*results)
    for name in ("concon_chi_view", "polar_view", "imagefolder_view"):
        assert checks[f"deep_fashion/{name}:ledger_adds_up"].passed
        assert checks[f"deep_fashion/{name}:official_counts"].passed

    before = photograph(data)
    assert all(result.success for result in run_selection(data, SELECTION, instance))
    assert photograph(data) == before

    # Damage reaches the views, which are the same files; a repair gives all of them the new one.
    victim = next(iter(images.values()))
    victim.write_bytes(b"x" * victim.stat().st_size)
    assert all(result.success for result in run_selection(data, SELECTION, instance))
    assert {name: content for name, (content, _) in photograph(data).items()} == {n: c for n, (c, _) in before.items()}
    assert all(path.samefile(victim) for paths in seen.values() for path in paths if path.name == victim.name)


def test_a_view_of_both_splits_waits_for_both(materialize, data, instance):
    assert materialize('+key:"deep_fashion/captions" or +key:"deep_fashion/few_shot_split"', instance=instance).success
    assert materialize('key:"raw/deep_fashion2_train"', instance=instance).success
    assert materialize('key:"deep_fashion/personalized"', "test", instance).success
    result = materialize('key:"deep_fashion/polar_view"', instance=instance)
    assert not result.success
    assert "Materialize it first" in explain(result)
    assert not (data / "views").exists()
