import logging
import os
from pathlib import Path

import pytest

from pervl_assets.core.errors import PervlError
from pervl_assets.demo import TINY_CLIP
from pervl_assets.settings import POSTGRES_URL, Settings, is_trusted, load_env_file


def test_defaults_follow_the_profile():
    demo, full = Settings.from_env({}), Settings.from_env({"PERVL_PROFILE": "full"})
    assert (demo.profile, demo.data, full.data) == ("demo", Path("data/demo").absolute(), Path("data").absolute())
    assert (demo.clip_model, demo.clip_pretrained) == (str(TINY_CLIP), "")
    assert (full.clip_model, full.clip_pretrained) == ("ViT-B-32-quickgelu", "openai")
    assert (demo.top_objects, demo.feature_shards) == (30, 2)
    assert (full.top_objects, full.feature_shards) == (1000, 8)
    assert (demo.repetitions, demo.training_epochs, demo.set_encoder_width) == (3, 10, 512)
    assert (full.repetitions, full.training_epochs, full.set_encoder_width) == (5, 300, 4096)
    same = {"profile", "data", "clip_model", "clip_pretrained", "top_objects", "feature_shards"}
    same |= {"repetitions", "training_epochs", "set_encoder_width"}
    assert demo.model_dump(exclude=same) == full.model_dump(exclude=same)


def test_paths_are_absolute_and_begin_at_home_after_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    paths = ("PERVL_DATA", "PERVL_ANNOTATIONS", "PERVL_CLIP_MODEL", "PERVL_CLIP_PRETRAINED")
    settings = Settings.from_env(dict.fromkeys(paths, "~/x"))
    assert (settings.data, settings.annotations) == (Path("/home/ann/x"), Path("/home/ann/x"))
    assert (settings.clip_model, settings.clip_pretrained) == ("/home/ann/x", "/home/ann/x")
    assert Settings.from_env({"PERVL_DATA": "a/[b]"}).data == Path("a/[b]").absolute()


WRONG = {
    "PERVL_PROFILE": "fool",
    "PERVL_DATA": "caf\udce9",
    "PERVL_ANNOTATIONS": "~nobody-of-this-name/x",
    "PERVL_DEVICE": "cuda:²",
    "PERVL_PRECISION": "fp8",
    "PERVL_PREPROCESSING": "fast",
    "PERVL_BATCH_SIZE": "0",
    "PERVL_WORKERS": "all",
    "PERVL_TOP_OBJECTS": "1" + "0" * 20,
    "PERVL_OPENIMAGES_NAMES": "tsv",
    "PERVL_SPLITS": "disjoint",
    "PERVL_FEATURE_SHARDS": "9" * 5000,
    "PERVL_REPETITIONS": "0",
    "PERVL_TRAINING_MODE": "code",
    "PERVL_TRAINING_PROMPTS": "~nobody-of-this-name/x",
    "PERVL_TRAINING_EPOCHS": "-1",
    "PERVL_SET_ENCODER_WIDTH": "99999999",
    "PERVL_FETCH": "ftp://mirror",
    "PERVL_TIMEZONE": "../../etc/passwd",
    "PERVL_REVALIDATE_CRON": "99 99 * * *",
    "PERVL_VERIFY_CRON": "daily",
    "PERVL_WATCH_SECONDS": "often",
    "PERVL_FRESH_DAYS": "99999999999",
    "PERVL_EXECUTOR": "threads",
}


def test_every_wrong_value_is_named_at_once():
    with pytest.raises(PervlError) as caught:
        Settings.from_env(WRONG)
    assert caught.value.problem == f"{len(WRONG)} settings of the environment cannot be used."
    assert {line.partition("=")[0] for line in caught.value.details} == set(WRONG)
    for line in caught.value.details:
        name, _, rest = line.partition("=")
        assert rest.startswith(repr(WRONG[name])[:80]), line
        assert ": must " in rest or "home" in rest, line
        assert len(line) < 200, line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PERVL_PROFILE", "fool", "must be 'demo' or 'full'"),
        ("PERVL_DATA", "S3://bucket", "must begin with s3://, gs:// or https://"),
        ("PERVL_DATA", "https://host/data", "must be a path on this machine, or an address of s3:// or gs://"),
        ("PERVL_DATA", "s3://bucket/#otter", "must not hold a user name, a password, ? or #"),
        ("PERVL_RAW", "http://host/raw", "must begin with s3://, gs:// or https://"),
        ("PERVL_SCRATCH", "s3://bucket", "must be a path on this machine, and no address"),
        ("PERVL_TOP_OBJECTS", "0", "must be greater than or equal to 1"),
        ("PERVL_TOP_OBJECTS", "many", "must be a whole number"),
        ("PERVL_DEVICE", "gpu", "must be auto, cpu, cuda or cuda:<number>"),
        ("PERVL_FETCH", "http://", "must be official, off, or the http(s) address of a mirror"),
        ("PERVL_FETCH", "http://host:99999", "must be official, off"),
        ("PERVL_TIMEZONE", "Europe", "must be a name such as UTC"),
        ("PERVL_VERIFY_CRON", "0 0 30 2 *", "must be five fields of cron"),
        ("PERVL_ENCODERS", "~nobody/x", "is neither a folder nor a model"),
        ("PERVL_ENCODERS", "x" * 70, "is neither a folder nor a model"),
        ("PERVL_TRAINING_EPOCHS", "100001", "must be less than or equal to 100000"),
    ],
)
def test_a_wrong_value_is_explained(name, value, words):
    with pytest.raises(PervlError) as caught:
        Settings.from_env({name: value})
    assert caught.value.problem == "1 setting of the environment cannot be used."
    (line,) = caught.value.details
    assert line.startswith(f"{name}={value!r}: ")
    assert words in line


@pytest.mark.parametrize("name", ["ytvos", "Deep-Fashion"])
def test_a_further_encoder_is_not_named_as_a_benchmark(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(PervlError) as caught:
        Settings.from_env({"PERVL_ENCODERS": f"{tmp_path / name}="})
    assert caught.value.details[0].endswith(f": {name} is the name of a benchmark; rename the folder of the model")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "auto"),
        ("device", "cuda:3"),
        ("fetch", "off"),
        ("fetch", "https://mirror.example:8080/pervl"),
        ("timezone", "Europe/Berlin"),
        ("verify_cron", "*/5 1-3 * * MON"),
    ],
)
def test_values_that_can_be_used(field, value):
    assert getattr(Settings.from_env({f"PERVL_{field.upper()}": value}), field) == value


def test_empty_values_are_unset():
    assert Settings.from_env({"PERVL_DATA": "", "PERVL_TOP_OBJECTS": " "}) == Settings.from_env({})


def test_an_unknown_variable_is_a_warning_that_names_the_close_one(caplog):
    env = {"PERVL_DATTA": "/x", "PERVL_XYZ": "1", "PERVLDATA": "/y", POSTGRES_URL: "postgresql+psycopg2://…"}
    assert Settings.from_env(env) == Settings.from_env({})
    assert caplog.messages == [
        "PERVL_DATTA is not a setting: ignored. Did you mean PERVL_DATA?",
        "PERVL_XYZ is not a setting: ignored.",
    ]


# ---- the file .env


@pytest.fixture
def env_file(tmp_path, monkeypatch) -> Path:
    for name in ("PERVL_SPLITS", "PERVL_FETCH"):  # restored at the end of a test
        monkeypatch.setenv(name, "before")
    (tmp_path / ".env").write_text("PERVL_SPLITS=scene_disjoint\nPERVL_FETCH\n")
    return tmp_path / ".env"


def test_a_file_replaces_variables_as_in_dagster(env_file):
    from dagster._core.secrets.env_file import get_env_var_dict

    load_env_file(env_file.parent)
    assert get_env_var_dict(str(env_file.parent)) == {"PERVL_SPLITS": "scene_disjoint"}
    assert (os.environ["PERVL_SPLITS"], os.environ["PERVL_FETCH"]) == ("scene_disjoint", "before")


def test_every_command_reads_the_file_of_the_current_folder(env_file, monkeypatch):
    from click.testing import CliRunner

    from pervl_assets.cli.commands import main

    monkeypatch.chdir(env_file.parent)
    assert CliRunner().invoke(main, ["status", "--help"]).exit_code == 0
    assert os.environ["PERVL_SPLITS"] == "scene_disjoint"


def test_no_file_changes_nothing(tmp_path):
    before = dict(os.environ)
    load_env_file(tmp_path)
    assert before == os.environ


def test_a_file_that_others_can_write_is_ignored(env_file, caplog):
    caplog.set_level(logging.WARNING)
    env_file.chmod(0o666)
    load_env_file(env_file.parent)
    assert os.environ["PERVL_SPLITS"] == "before"
    assert f"{env_file} is ignored" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file of another user")
def test_a_file_of_another_user_is_not_trusted_nor_a_link_made_by_one(tmp_path):
    own, other, link = (tmp_path / name for name in ("own", "other", "link"))
    own.touch()
    other.touch()
    link.symlink_to(own)
    assert all(map(is_trusted, (own, other, link, tmp_path)))
    os.chown(other, 1234, 1234)
    os.lchown(link, 1234, 1234)
    assert [is_trusted(path) for path in (own, other, link)] == [True, False, False]


@pytest.mark.parametrize(
    "address", ["https://anna:fluffy@mirror/", "https://mirror/?key=fluffy", "//a:fluffy@b", "x?fluffy"]
)
def test_a_mirror_has_no_password_and_none_is_shown(address):
    with pytest.raises(PervlError, match="without @") as caught:
        Settings.from_env({"PERVL_FETCH": address})
    assert "fluffy" not in str(caught.value)
