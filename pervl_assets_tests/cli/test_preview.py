"""`pervl preview` on the demo data: finding a concept, and errors with suggestions."""

import io
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image

from pervl_assets.cli.commands import main
from pervl_assets.cli.preview import preview_concept
from pervl_assets.core.errors import MissingInputError, PervlError
from pervl_assets_tests.core.samples import photograph

TREE = "deep_fashion/personalized"


def list_concepts(data, split: str) -> list[str]:
    return sorted(path.name for path in (data / f"deep_fashion2/personalized_{split}/codes_infer").iterdir())


def measure(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_concept_is_found_in_its_split_and_nothing_is_changed(made_world, split):
    before = photograph(made_world.data)
    concept = list_concepts(made_world.data, split)[0]
    found = preview_concept(made_world.data, TREE, concept)
    assert measure(found)[0] == 1200
    assert preview_concept(made_world.data, TREE, concept, split) == found
    assert photograph(made_world.data) == before


def test_the_command_writes_a_png(made_world, tmp_path, monkeypatch):
    monkeypatch.setenv("PERVL_DATA", str(made_world.data))
    concept = list_concepts(made_world.data, "test")[-1]
    out = tmp_path / "new" / "image.png"
    result = CliRunner().invoke(main, ["preview", TREE, "--concept", concept, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == preview_concept(made_world.data, TREE, concept)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["preview", TREE, "--concept", concept]).exit_code == 0
    assert (tmp_path / f"{concept}.png").read_bytes() == out.read_bytes()


def test_an_unknown_tree_or_concept_or_split_is_an_error_with_suggestions(made_world):
    concept = list_concepts(made_world.data, "test")[0]
    with pytest.raises(PervlError, match="Did you mean deep_fashion/personalized"):
        preview_concept(made_world.data, "deep_fashion/personalised", concept)
    with pytest.raises(PervlError, match="its splits are validation, test"):
        preview_concept(made_world.data, TREE, concept, "train")
    with pytest.raises(PervlError, match=rf"has no concept '{concept}0'.*\n.*Did you mean .*{concept}"):
        preview_concept(made_world.data, TREE, concept + "0")
    with pytest.raises(PervlError, match=r"\[validation\] has no concept"):
        preview_concept(made_world.data, TREE, concept, "validation")
    with pytest.raises(PervlError, match="it has no splits"):
        preview_concept(made_world.data, "ytvos/fsl_seg", "cat", "test")


def test_a_tree_that_is_not_materialized_is_an_error_with_advice(made_world, tmp_path):
    with pytest.raises(MissingInputError, match=r"pervl materialize \+ytvos/fsl_seg"):
        preview_concept(made_world.data, "ytvos/fsl_seg", "cat")
    data = made_world.copy_to(tmp_path / "data")
    (data / "assets/deep_fashion/personalized/test.parquet").unlink()
    with pytest.raises(PervlError, match="Not materialized: test"):
        preview_concept(data, TREE, list_concepts(data, "test")[0])
    shutil.rmtree(data / "assets/deep_fashion/personalized")
    with pytest.raises(MissingInputError, match="deep_fashion/personalized is not materialized"):
        preview_concept(data, TREE, "1")
