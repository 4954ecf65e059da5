"""The tables of classes and image sizes of a tree."""

from pervl_assets.trees.ledger import FolderTree, build_frame
from pervl_assets.trees.plans import Output, fill_row, record_bytes, start_row
from pervl_assets.trees.summary import count_classes, tabulate_sizes
from pervl_assets_tests.core.samples import draw_picture, save_jpeg


def make_tree(root, *rows, status="written"):
    """Return a tree of (role, concept, width, height)."""
    made = []
    for number, (role, concept, width, height) in enumerate(rows):
        data = save_jpeg(draw_picture(width, height))
        (root / f"{number}.jpg").write_bytes(data)
        row = fill_row(start_row(1, Output(f"{number}.jpg", concept, role), ("a",), [1]), record_bytes(data))
        made.append({**row, "status": status})
    return FolderTree(root, build_frame(made))


def test_classes_are_counted_by_concept_and_rule_the_largest_first(tmp_path):
    tree = make_tree(
        tmp_path,
        ("shot", "cat_1", 20, 20),
        ("shot", "dog_1", 20, 20),
        ("shot", "dog_2", 20, 20),
        ("shot", "dog_2", 20, 20),
        ("frame", "dog_2", 20, 20),
        ("mask", "cow_1", 20, 20),
        ("shot", "odd", 20, 20),
    )
    counts = count_classes(tree, ("shot", "frame"), {"cat_1": "cat", "dog_1": "dog", "dog_2": "dog"})
    assert counts.columns == ["class", "concepts", "shot", "frame"]
    assert counts.rows() == [("dog", 2, 3, 1), ("cat", 1, 1, 0), ("odd", 1, 1, 0)]


def test_images_are_put_into_bins_by_their_shorter_side(tmp_path):
    sizes = ((15, 300), (300, 16), (223, 400), (224, 400), (500, 230))
    tree = make_tree(tmp_path, *(("shot", "cat", *size) for size in sizes), ("frame", "cat", 900, 900))
    table = tabulate_sizes(tree, ("shot", "frame"))
    assert table.select("shorter side, px", "shot", "frame").rows() == [
        ("<16", 1, 0),
        ("16\u00a0to\u00a031", 1, 0),
        ("32\u00a0to\u00a063", 0, 0),
        ("64\u00a0to\u00a0127", 0, 0),
        ("128\u00a0to\u00a0223", 1, 0),
        ("224\u00a0to\u00a0447", 2, 0),
        ("448\u00a0to\u00a0895", 0, 0),
        ("≥896", 0, 1),
    ]
    bars = [len(bar) for bar in table["images"]]
    assert bars[5] == max(bars) == 2 * bars[0]
    assert bars[2] == 0


def test_a_tree_without_images_has_empty_tables(tmp_path):
    tree = make_tree(tmp_path, ("shot", "cat", 20, 20), status="quarantined")
    assert count_classes(tree, ("shot",), {}).is_empty()
    assert tabulate_sizes(tree, ("shot",)).is_empty()
