"""Settings: every `PERVL_…` variable, defined once.

The fields of the resources (`defs.resources`), the launchpad (`defs.jobs`) and the table in docs/operating.md are made
from the fields of `Settings`. The password of DeepFashion2 is not a setting: it is read from the environment where the
archive is opened, so that no configuration, event or log holds it.
"""

import difflib
import logging
import multiprocessing
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
)

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import SplitMode
from pervl_assets.clip.checkpoints import find_folder, parse_encoders
from pervl_assets.clip.passport import DEVICES, Precision, is_device
from pervl_assets.clip.preprocessing import PreprocessingMode
from pervl_assets.core.addresses import Address, Place, is_address, parse_address
from pervl_assets.core.checks import MAX_QUARANTINED_SHARE
from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.text import hide_secrets
from pervl_assets.demo import TINY_CLIP
from pervl_assets.inversion.open_images import NamesMode
from pervl_assets.training.modes import ModeName

Profile = Literal["demo", "full"]
Executor = Literal["in_process", "multiprocess", "ray", "k8s"]

POSTGRES_URL: Final = "PERVL_POSTGRES_URL"
"""Address of the database of a team's Dagster instance. A secret, therefore no setting: the UI shows settings."""

SMTP_URL: Final = "PERVL_SMTP_URL"
"""Mail server for messages about failed runs, with its log-in. A secret, too."""

SLACK_WEBHOOK: Final = "PERVL_SLACK_WEBHOOK"
"""Address of a Slack channel's incoming webhook, for the same messages. A secret, too."""

_SECRETS: Final = (POSTGRES_URL, SMTP_URL, SLACK_WEBHOOK)
_PREFIX: Final = "PERVL_"

_log = logging.getLogger(__name__)


def _parse_root(value: object) -> Place:
    place = _parse_place(value)
    if isinstance(place, Address) and not place.is_bucket:
        raise ValueError("must be a path on this machine, or an address of s3:// or gs://")
    return place


def _parse_path(value: object) -> Path:
    if is_address(str(value)):
        raise ValueError("must be a path on this machine, and no address")
    try:
        path = Path(str(value)).expanduser().absolute()
        path.as_posix().encode()
    except UnicodeEncodeError:
        raise ValueError("must be a path in UTF-8") from None
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return path


def _parse_place(value: object) -> Place:
    if isinstance(value, Address):
        return value
    return parse_address(str(value)) if is_address(str(value)) else _parse_path(value)


def _check_device(value: str) -> str:
    if not is_device(value):
        raise ValueError(f"must be {DEVICES}")
    return value


def _check_encoders(value: str) -> str:
    # Assets of an encoder are known from those of the default one by a part of their key.
    taken = {benchmark.name for benchmark in find_benchmarks()} if value else set()
    if wrong := [name for name in parse_encoders(value) if name.lower().replace("-", "_") in taken]:
        raise ValueError(f"{name_some(wrong)} is the name of a benchmark; rename the folder of the model")
    return value


def _check_source(value: str) -> str:
    try:
        address = urlsplit(value)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # a port or an IPv6 address that cannot be one
        usable = False
    if any(sign in value for sign in "@?#"):  # the UI shows settings
        raise ValueError("must be an address without @, ? and #: a password in it would be shown with the settings")
    if value not in ("official", "off") and not usable:
        raise ValueError("must be official, off, or the http(s) address of a mirror")
    return value


def _check_ui_url(value: str) -> str:
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?", value):
        raise ValueError("must be an http(s) address without log-in and query, e.g. http://127.0.0.1:3000")
    return value.rstrip("/")


def _check_recipients(value: str) -> str:
    if not all(re.fullmatch(r"[^@\s,<>]+@[^@\s,<>]+", one.strip()) for one in value.split(",") if value):
        raise ValueError("must be e-mail addresses, separated by commas")
    return value


def _check_executor(value: str, info: ValidationInfo) -> str:
    if value not in ("in_process", "multiprocess") and info.data.get("device", "auto") == "auto":
        raise ValueError("needs PERVL_DEVICE=cpu or PERVL_DEVICE=cuda: `auto` means another device on each machine")
    return value


def _check_timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError("must be a name such as UTC or Europe/Berlin") from error
    return value


def _check_cron(value: str) -> str:
    import dagster as dg  # loaded only where a cron string was set: the defaults are not checked

    try:
        dg.ScheduleDefinition(name="check", job_name="check", cron_schedule=value)
    except dg.DagsterInvalidDefinitionError as error:
        raise ValueError("must be five fields of cron, e.g. 0 3 * * 1") from error
    return value


_Root = Annotated[Place, BeforeValidator(_parse_root), PlainSerializer(str)]
_Path = Annotated[Path, BeforeValidator(_parse_path)]
_Place = Annotated[Place, BeforeValidator(_parse_place), PlainSerializer(str)]
_Model = Annotated[str, AfterValidator(os.path.expanduser)]
_Cron = Annotated[str, AfterValidator(_check_cron)]


def _setting(default: Any, description: str, shown: str | None = None, most: int | None = None) -> Any:
    """Return a field of `Settings`. `default` may be a function of the values of the fields before it.

    The description is markdown for documentation and UI, `shown` the default in the documentation where that is not a
    plain value, `most` the largest value of a whole number. The smallest is 1.
    """
    source: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**source, description=description, title=shown, ge=1 if most else None, le=most)


def _by_profile(demo: Any, full: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: full if values["profile"] == "full" else demo


class Settings(BaseModel):
    """Everything that a run depends on besides its inputs: the field `device` is the variable `PERVL_DEVICE`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Profile = _setting("demo", "`demo`: raw inputs are synthetic; `full`: the official archives", "`demo`")
    data: _Root = _setting(
        lambda values: Path(_by_profile("data/demo", "data")(values)).absolute(),
        "root of raw inputs and results: a folder, or an address in a bucket such as `s3://pervl/data`",
        "`data` (demo: `data/demo`)",
    )
    raw: _Place | None = _setting(
        None,
        "folder or address (`s3://`, `gs://`, `https://`) with the raw inputs, laid out like `PERVL_DATA`. Nothing is "
        "downloaded or drawn into it. Zips at an address are read in place, by ranges",
        "`PERVL_DATA`",
    )
    scratch: _Path | None = _setting(
        None,
        "folder of this machine for copies of values, if `PERVL_DATA` is a bucket; it can be deleted while nothing "
        "runs",
        "`pervl` in the user's cache folder",
    )
    annotations: _Path | None = _setting(
        None,
        "folder with `ytvos/` and `deep_fashion/` in upstream's layout",
        "the official files, fetched and verified (demo: those of the demo data)",
    )
    clip_model: _Model = _setting(
        _by_profile(str(TINY_CLIP), "ViT-B-32-quickgelu"),
        "open_clip model name, or a folder in open_clip's `local-dir` layout",
        "`ViT-B-32-quickgelu` (demo: the tiny CLIP)",
    )
    clip_pretrained: _Model = _setting(
        lambda values: "" if find_folder(values["clip_model"]) else "openai",
        "pretrained tag, or path of a checkpoint (open_clip's or OpenAI's state dict, or safetensors)",
        "`openai` (none for a model folder, which has its own weights)",
    )
    encoders: Annotated[str, AfterValidator(_check_encoders)] = _setting(
        "",
        "further encoders, each with features of its own, images prepared as the model was published: `MODEL=WEIGHTS`, "
        "separated by commas, e.g. `ViT-L-14-quickgelu=openai`",
        "none",
    )
    device: Annotated[str, AfterValidator(_check_device)] = _setting(
        "auto", "device on which CLIP encodes: `auto`, `cpu`, `cuda`, `cuda:n`"
    )
    devices: int | None = _setting(
        None,
        "devices or machines that are used at once: the size of the pool `gpu`, and how many runs are executed beside "
        "each other",
        "1; the pool is as `dagster.yaml` says",
        most=1000,
    )
    precision: Precision | None = _setting(
        None,
        "precision in which CLIP encodes: `fp32`, `fp16`, `bf16`",
        "fp16 on CUDA, as upstream's CLIP; fp32 on a CPU",
    )
    preprocessing: PreprocessingMode = _setting(
        "upstream",
        "how images are prepared for CLIP. `upstream`: shorter side to 300, centre crop 224; `model`: as the model was "
        "published, any square size",
    )
    batch_size: int | None = _setting(
        None, "images encoded at once; smaller batches need less memory", "32 on a CPU, 64 on CUDA", most=1 << 20
    )
    workers: int = _setting(
        lambda: os.cpu_count() or 1,
        "worker processes that read and decode files, and processors that a heavy step asks for on a cluster (2 if "
        "unset)",
        "the number of processors",
        most=4096,
    )
    top_objects: int = _setting(_by_profile(30, 1000), "number of the most common objects that are classes", most=10**9)
    openimages_names: NamesMode = _setting(
        "csv", "how OpenImages names are read. `csv`: parsed as CSV; `upstream`: split at commas, as upstream does"
    )
    splits: SplitMode = _setting(
        "official",
        "splits of the benchmarks. `official`: as published; `scene_disjoint`: PerVL-YTVOS validation without the "
        "three concepts whose scenes are in test too",
    )
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = _setting(
        MAX_QUARANTINED_SHARE,
        "share of the files of a tree, or of the images of a shard, that may be left out because their source is "
        "missing or unusable, from 0 to 1; if it is more, the run fails and the earlier value stays",
    )
    feature_shards: int = _setting(_by_profile(2, 8), "partitions of the image features", most=100_000)
    repetitions: int = _setting(
        _by_profile(3, 5),
        "trainings of the inversion model, and seeds of the few-shot draws: scores are means over them",
        most=1000,
    )
    training_mode: ModeName = _setting(
        "palavra",
        "how the inversion model is trained. `palavra`: as upstream's code does, so that scores can be compared with "
        "published ones; `paper`: as the text of the paper says, with disjoint splits",
    )
    training_prompts: _Path | None = _setting(
        None,
        "text file with the prompts of the training, one per line with one `*`, for example those of appendix A of "
        "PALAVRA's paper",
        "24 in CLIP's style",
    )
    training_epochs: int = _setting(
        _by_profile(10, 300), "epochs of a training; in each, every object class is drawn once", most=100_000
    )
    set_encoder_width: int = _setting(_by_profile(512, 4096), "units of the hidden layers of f_theta", most=1 << 16)
    fetch: Annotated[str, AfterValidator(_check_source)] = _setting(
        "official",
        "where public inputs are fetched from: `official`; `off`: nothing is fetched; or the address of a mirror that "
        "is laid out like `PERVL_DATA`, with `annotations/` in it",
    )
    timezone: Annotated[str, AfterValidator(_check_timezone)] = _setting("UTC", "time zone of the schedules")
    revalidate_cron: _Cron = _setting("0 3 * * 1", "when public inputs are revalidated with their servers")
    verify_cron: _Cron = _setting("0 2 * * *", "when results are hashed again and compared")
    watch_seconds: int = _setting(300, "seconds between two evaluations of the sensors", most=31_536_000)
    fresh_days: int = _setting(
        9, "days a public input is fresh after it was last checked; a warning comes a day earlier", most=36_500
    )
    alert_email: Annotated[str, AfterValidator(_check_recipients)] = _setting(
        "",
        "who gets a message when a run has failed, from the sensor `report_failures`: e-mail addresses, separated by "
        f"commas. Needs `{SMTP_URL}`",
        "none",
    )
    ui_url: Annotated[str, AfterValidator(_check_ui_url)] = _setting(
        "http://127.0.0.1:3000", "address of the UI in such a message", "that of `pervl ui`"
    )
    executor: Annotated[Executor, AfterValidator(_check_executor)] = _setting(
        "in_process",
        "how a run executes its steps. `in_process`: one after another in its own process, the large ones with worker "
        "processes; `multiprocess`: each step in a process, several at once; `ray`: heavy steps as jobs of the Ray "
        "cluster of `RAY_ADDRESS`, the others on this machine; `k8s`: heavy steps as Kubernetes jobs, the others in "
        "the pod of the run",
    )
    step_memory: int = _setting(4, "GiB of memory that a heavy step asks for on Kubernetes", most=1 << 20)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables, by default those of this process. An empty one is unset.

        Raises:
            PervlError: Variables have values that cannot be used. Every such variable is named.
        """
        env = os.environ if env is None else env
        _warn_of_unknown(env)
        values = {name: text for name in cls.model_fields if (text := env.get(get_variable(name), "")).strip()}
        advice = "Correct or unset these variables; docs/operating.md has a table of all of them."
        return check_settings(values, "environment", advice, get_variable)

    def require_encoder(self, name: str | None) -> None:
        """Raise a `PervlError` if there is no further encoder of this name; None is the default one."""
        encoders = parse_encoders(self.encoders)
        if name is not None and name not in encoders:
            known = (
                f"Choose one of these: {name_some([*encoders])}." if encoders else "Name it in PERVL_ENCODERS first."
            )
            raise PervlError(f"There is no further encoder {name!r}.", advice=known)


def get_variable(name: str) -> str:
    """Return the environment variable of a field of `Settings`: `PERVL_DEVICE` of `device`."""
    return _PREFIX + name.upper()


def check_settings(values: Mapping[str, Any], source: str, advice: str, label: Callable[[str], str] = str) -> Settings:
    """Return the settings with these values, by field, and defaults for the others.

    Args:
        values: Values by field.
        source: Where they were set, for the message.
        advice: What to do about a wrong value.
        label: Returns the name under which a field was set.

    Raises:
        PervlError: Values cannot be used. Every one has a line such as `PERVL_DEVICE='gpu': must be auto, …`.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        wrong = [
            f"{label(str(one['loc'][0]))}={hide_secrets(repr(one['input'])):.80}: "
            f"{_explain(one['type'], one['msg'], one.get('ctx'))}"
            for one in error.errors()
            if one["type"] != "default_factory_not_called"  # the profile that it depends on is wrong itself
        ]
        problem = f"{len(wrong)} setting{'s' if len(wrong) > 1 else ''} of the {source} cannot be used."
        raise PervlError(problem, details=wrong, advice=advice) from None


def _explain(kind: str, message: str, context: Mapping[str, Any] | None) -> str:
    """Return what is wrong with a value: a check's own words, or pydantic's: `must be 'csv' or 'upstream'`."""
    if kind == "value_error" and context:
        return str(context["error"])
    return "must be a whole number" if kind.startswith("int_") else message.replace("Input should", "must")


def _warn_of_unknown(env: Mapping[str, str]) -> None:
    """Log a warning for every `PERVL_…` variable that is no setting. Only the main process does."""
    known = [*map(str.upper, Settings.model_fields), *(name.removeprefix(_PREFIX) for name in _SECRETS)]
    unknown = {name.removeprefix(_PREFIX) for name in env if name.startswith(_PREFIX)} - {*known}
    for name in sorted(unknown) if multiprocessing.parent_process() is None else ():
        close = difflib.get_close_matches(name, known, n=1)
        advice = f" Did you mean {_PREFIX}{close[0]}?" if close else ""
        _log.warning("%s%s is not a setting: ignored.%s", _PREFIX, name, advice)


def load_env_file(folder: Path) -> None:
    """Set the variables of the file `.env` of a folder, as `dg dev`, `dagster` and its daemon do in the working folder.

    They replace variables that are set already, as they do in Dagster: so `pervl` and the UI use the same settings. A
    file that another user can write is ignored with a warning.
    """
    file = folder / ".env"
    if not file.is_file():
        return
    if not is_trusted(file):
        _log.warning("%s is ignored: it belongs to another user, or other users may write it.", file)
        return
    os.environ.update({name: value for name, value in dotenv_values(file).items() if value is not None})


def is_trusted(path: Path) -> bool:
    """Return whether a file or folder belongs to this user or root, also behind a link, and others cannot write it.

    Users of this user's own group can.
    """
    own, target = path.lstat(), path.stat()
    writers = stat.S_IWOTH if target.st_gid == os.getgid() else stat.S_IWOTH | stat.S_IWGRP
    return {own.st_uid, target.st_uid} <= {os.getuid(), 0} and not target.st_mode & writers
