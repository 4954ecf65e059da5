import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.clip.features import Features
from pervl_assets.core.errors import AnnotationError, PervlError
from pervl_assets.inversion.open_images import find_nearest_classes, read_class_names
from pervl_assets_tests.inversion.kit import SHARED, make_passport

NAMES = 'LabelName,DisplayName\n/m/01,Man\n/m/02,"Ducks, geese and swans"\n/m/03,"Fiat 500 ""topolino"""\n/m/04,Man\n'


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("variant", ["lf", "crlf", "bom", "no final line break", "blank line", "no header"])
def test_csv_names_are_parsed(tmp_path, variant):
    text = {
        "crlf": NAMES.replace("\n", "\r\n"),
        "bom": "\ufeff" + NAMES,
        "no final line break": NAMES.rstrip(),
        "blank line": NAMES + "\n",
        "no header": NAMES.partition("\n")[2],
    }.get(variant, NAMES)
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", text), "csv")
    assert frame.rows() == [
        (0, "/m/01", "Man"),
        (1, "/m/02", "Ducks, geese and swans"),
        (2, "/m/03", 'Fiat 500 "topolino"'),
        (3, "/m/04", "Man"),
    ]
    assert rejected.is_empty()


def test_upstream_takes_whatever_follows_the_first_comma(tmp_path):
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", NAMES), "upstream")
    names = ["DisplayName", "Man", '"Ducks  geese and swans"', '"Fiat 500 ""topolino"""', "Man"]
    assert frame["name"].to_list() == names
    assert rejected.is_empty()


def test_bad_rows_are_rejected_with_number_and_reason(tmp_path):
    text = NAMES + '/m/05,"never closed\n/m/06\n/m/07,\n/m/08,Cat\n'
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", text), "csv")
    assert frame["name"].to_list()[-1] == "Cat"
    assert rejected["line"].to_list() == [6, 7, 8]
    assert [reason[:8] for reason in rejected["reason"]] == ["not CSV:", "1 fields", "an empty"]
    with pytest.raises(AnnotationError, match="4 of 10 lines"):
        read_class_names(write(tmp_path / "oid.csv", text + "x\n"), "csv")
    with pytest.raises(AnnotationError, match="no class name"):
        read_class_names(write(tmp_path / "oid.csv", "LabelName,DisplayName\n"), "csv")


def test_the_real_file(tmp_path):
    path = SHARED / "data/openimages/oidv6-class-descriptions.noheader.csv"
    if not path.is_file():
        pytest.skip(f"the OpenImages names are not at {path}")
    with_header = tmp_path / "oid.csv"
    with_header.write_bytes(b"LabelName,DisplayName\n" + path.read_bytes())
    parsed, rejected = read_class_names(with_header, "csv")
    theirs, _ = read_class_names(with_header, "upstream")
    assert (parsed.height, theirs.height, rejected.height) == (19_994, 19_995, 0)
    assert theirs["name"][0] == "DisplayName"
    assert (parsed["name"] != theirs["name"][1:]).sum() == 14
    assert parsed["name"].is_duplicated().sum() > 0


def make_features(vectors, names=None, **changes):
    array = np.asarray(vectors, np.float32)
    names = names or [f"n{row}" for row in range(len(array))]
    return Features(names, array, make_passport(dimension=array.shape[1], **changes))


def test_first_of_equally_near_classes_wins():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(40, 33)).astype(np.float32) * 20
    rows = [5, 7, 5, 7, *range(40), 7, 5]
    classes, queries = make_features(base[rows]), make_features(np.repeat(base, 30, axis=0) + np.float32(0.001))
    matches = find_nearest_classes(queries, classes, chunk=77)
    first = {original: place for place, original in reversed(list(enumerate(rows)))}
    expected = [first[original] for original in range(40) for _ in range(30)]
    assert matches["class_row"].to_list() == expected
    tied = matches.filter(matches["class_row"].is_in([0, 1]))
    assert tied["runner_up_row"].to_list() == [row + 2 for row in tied["class_row"]]
    assert (tied["margin"] == 0).all()


def test_all_classes_equal():
    matches = find_nearest_classes(make_features(np.ones((5, 4))), make_features(np.zeros((100, 4))))
    assert matches.select("class_row", "runner_up_row", "distance", "margin").rows() == [(0, 1, 4.0, 0.0)] * 5


def test_a_single_class_has_no_runner_up():
    matches = find_nearest_classes(make_features([[1.0, 2.0]]), make_features([[1.0, 0.0]], ["man"]))
    assert matches.rows() == [(0, "n0", 0, "man", 4.0, None, None, None)]


def test_no_query_gives_no_match():
    empty = Features([], np.empty((0, 2), np.float32), make_passport(dimension=2))
    assert find_nearest_classes(empty, make_features([[1.0, 0.0]])).is_empty()


def test_features_of_different_models_are_not_compared():
    with pytest.raises(PervlError, match="precision fp32 / fp16"):
        find_nearest_classes(make_features([[1.0]]), make_features([[1.0]], precision="fp16"))
    with pytest.raises(PervlError, match="no object class"):
        find_nearest_classes(
            make_features([[1.0]]), Features([], np.empty((0, 1), np.float32), make_passport(dimension=1))
        )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 40),
    classes=st.integers(2, 60),
    dimension=st.integers(1, 20),
    offset=st.sampled_from([0.0, 10.0, 3000.0]),
    coarse=st.booleans(),
)
def test_same_as_direct_float64_distances(*, seed, queries, classes, dimension, offset, coarse):
    rng = np.random.default_rng(seed)
    drawn = (
        rng.integers(-2, 3, (queries + classes, dimension))
        if coarse
        else rng.normal(size=(queries + classes, dimension))
    )
    vectors = (drawn + offset).astype(np.float32)
    a, b = vectors[:queries], vectors[queries:]
    direct = ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(axis=2)
    matches = find_nearest_classes(make_features(a), make_features(b), chunk=7)
    order = np.argsort(direct.astype(np.float32), axis=1, kind="stable")
    assert matches["class_row"].to_list() == order[:, 0].tolist()
    assert matches["runner_up_row"].to_list() == order[:, 1].tolist()
    nearest = np.take_along_axis(direct, order[:, :1], axis=1)[:, 0]
    assert np.array_equal(matches["distance"].to_numpy(), nearest.astype(np.float32))
    assert (matches["margin"] >= 0).all()
