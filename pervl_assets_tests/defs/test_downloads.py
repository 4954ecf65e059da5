"""Raw inputs over HTTP as Dagster runs them: a mirror on 127.0.0.1 that is laid out like the data folder."""

import hashlib
import os
import shutil

import pytest
import yaml

from pervl_assets.core.errors import ArchiveError, MissingInputError
from pervl_assets.defs import raw
from pervl_assets.defs.downloads import Downloads, locate_record
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.testing.runs import explain

NAMES = "inversion_model_train_data/oidv6-class-descriptions.csv"
COCO = "inversion_model_train_data/train2014.zip"
PUBLIC = {"raw/openimages_class_descriptions": NAMES, "raw/coco_train2014": COCO}


@pytest.mark.parametrize(("asset", "file"), PUBLIC.items())
def test_a_public_input_is_fetched_and_then_only_revalidated(materialize, mirror, tmp_path, asset, file):
    own = {"data": tmp_path / "own", "profile": "full", "fetch": mirror.url}
    found = []
    for _ in range(2):
        result = materialize(f'key:"{asset}"', **own)
        assert result.success, explain(result)
        (made,) = result.asset_materializations_for_node(asset.replace("/", "__"))
        found.append((made.metadata["download"].value, made.metadata["received_bytes"].value))
    assert (tmp_path / "own" / file).read_bytes() == (mirror.folder / file).read_bytes()
    assert found == [("fetched", (mirror.folder / file).stat().st_size), ("unchanged", 0)]


def test_a_download_that_is_no_zip_is_refused(materialize, mirror, tmp_path):
    (mirror.folder / COCO).write_text("no zip")
    result = materialize('key:"raw/coco_train2014"', data=tmp_path / "own", profile="full", fetch=mirror.url)
    assert "is not the file it should be" in explain(result)
    assert not (tmp_path / "own" / COCO).exists()


def test_an_input_put_there_by_hand_or_unzipped_is_not_fetched(materialize, data, mirror):
    mirror.shutdown()
    own = {"profile": "full", "fetch": mirror.url}
    assert materialize('key:"raw/openimages_class_descriptions"', **own).success
    shutil.unpack_archive(data / COCO, (data / COCO).parent)
    (data / COCO).unlink()
    assert materialize('key:"raw/coco_train2014"', **own).success


def test_an_unreachable_server_is_an_error_with_licence_and_advice(tmp_path, materialize, monkeypatch):
    monkeypatch.setattr("pervl_assets.archives.downloads.choose_pause", lambda *_: 0.0)
    own = {"data": tmp_path / "own", "profile": "full", "fetch": "http://127.0.0.1:1/"}
    text = explain(materialize('key:"raw/coco_svo_triplets"', **own))
    problem = (
        "not found, and its download failed: The subject-relation-object triplets of the COCO 2014 train captions."
    )
    assert problem in text
    assert "licence: CC-BY-4.0" in text
    assert "download it by hand to" in text


def test_annotations_come_from_a_mirror_too_and_are_compared_with_the_manifest(
    materialize, mirror, tmp_path, monkeypatch
):
    shutil.copytree(ANNOTATIONS / "demo", mirror.folder / "annotations")
    manifest = yaml.safe_load((ANNOTATIONS / "manifest.yaml").read_text())
    for file in manifest["files"]:
        data = (ANNOTATIONS / "demo" / file["path"]).read_bytes()
        file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.setattr(raw, "ANNOTATIONS", tmp_path)
    own = {"data": tmp_path / "own", "profile": "full", "fetch": mirror.url}
    result = materialize('key:"raw/pervl_annotations"', **own)
    assert result.success, explain(result)
    folder = tmp_path / "own/assets/annotations" / manifest["commit"]
    assert sorted(path.name for path in folder.rglob("*.*")) == sorted(
        file["path"].rpartition("/")[2] for file in manifest["files"]
    )


WRONG = {
    "SSL_CERT_FILE": "/nowhere/cacert.pem",
    "SSL_CERT_DIR": "/nowhere",
    "NO_PROXY": "fe80::/10",
    "ALL_PROXY": "socks5://anna:fluffy@127.0.0.1:1",
    "HTTPS_PROXY": "gopher://anna:fluffy@127.0.0.1:1",
}


@pytest.mark.parametrize(("variable", "value"), WRONG.items())
def test_proxies_and_certificates_matter_only_when_something_is_requested(
    mirror, tmp_path, monkeypatch, variable, value
):
    for name in WRONG:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, value)
    (spec,) = (one for one in list_specs() if one.file == NAMES)
    downloads = Downloads(source=mirror.url, attempts=1)
    if variable != "SSL_CERT_DIR":  # OpenSSL reads that when it needs a certificate
        with pytest.raises(MissingInputError, match=f"environment's {variable} ") as caught:
            downloads.fetch_input(spec, tmp_path, print)
        assert "fluffy" not in str(caught.value)
        with monkeypatch.context() as without:
            without.delenv(variable)
            assert downloads.fetch_input(spec, tmp_path, print).outcome == "fetched"
        assert variable in downloads.fetch_input(spec, tmp_path, print).stale
        locate_record(spec, tmp_path).unlink()
    (tmp_path / NAMES).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / NAMES).write_text("by hand")
    assert downloads.fetch_input(spec, tmp_path, print).outcome == "by_hand"


def test_a_text_that_is_not_the_input_does_not_replace_it(mirror, tmp_path):
    downloads = Downloads(source=mirror.url)
    (spec,) = (one for one in list_specs() if one.file == NAMES)
    assert downloads.fetch_input(spec, tmp_path, print).outcome == "fetched"
    good = (tmp_path / NAMES).read_bytes()
    (mirror.folder / NAMES).write_text("Please log in.\n" * len(good))
    os.utime(mirror.folder / NAMES, (2e9, 2e9))
    assert "is not the file it should be" in downloads.fetch_input(spec, tmp_path, print).stale
    assert (tmp_path / NAMES).read_bytes() == good


def test_only_public_inputs_have_an_address():
    public = {spec.name for spec in list_specs() if Downloads().locate(spec)}
    assert public == {"coco_train2014", "coco_svo_triplets", "openimages_class_descriptions"}
    assert not any(Downloads(source="off").locate(spec) for spec in list_specs())


def test_a_damaged_download_is_an_error_even_if_nothing_is_fetched(mirror, tmp_path):
    (spec,) = (one for one in list_specs() if one.file == NAMES)
    Downloads(source=mirror.url).fetch_input(spec, tmp_path, print)
    assert Downloads(source="off").fetch_input(spec, tmp_path, print) is None
    os.truncate(tmp_path / NAMES, 100)
    with pytest.raises(ArchiveError, match="it has 100 bytes where"):
        Downloads(source="off").fetch_input(spec, tmp_path, print)
