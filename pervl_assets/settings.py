"""The environment variables, read in one place.

Belongs here: names, defaults and checks of the variables in the table of docs/operating.md. Does not belong here: the
secret (`DEEPFASHION2_PASSWORD` is read where an archive is opened, so that no configuration ever holds it).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pervl_assets.clip.passport import Precision
from pervl_assets.clip.preprocessing import PreprocessingRule
from pervl_assets.core.errors import PervlError

Profile = Literal["demo", "full"]
NamesRule = Literal["csv", "upstream"]
SplitRule = Literal["official", "scene_disjoint"]
Executor = Literal["in_process", "multiprocess"]

TINY_CLIP: Final = Path(__file__).parent / "demo" / "tiny_clip"
"""Folder of the demo's CLIP, in open_clip's `local-dir` layout."""

DEVICES: Final = "auto, cpu, cuda or cuda:<number>"


def is_device(name: str) -> bool:
    """Tell whether this names a device that a model can be put on, or `auto`."""
    return name in ("auto", "cpu", "cuda") or (name.startswith("cuda:") and name[5:].isdigit())


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on beside its inputs.

    Attributes:
        data: Root of raw inputs and results (`PERVL_DATA`).
        profile: Whether raw inputs are drawn or official (`PERVL_PROFILE`).
        annotations: Folder with one folder a benchmark; None: the official files, fetched below `data`
            (`PERVL_ANNOTATIONS`).
        clip_model: open_clip model name, or a folder with `open_clip_config.json` (`PERVL_CLIP_MODEL`).
        clip_pretrained: Pretrained tag or path of a checkpoint; empty for a model folder, which brings its own
            (`PERVL_CLIP_PRETRAINED`).
        device: `auto`, `cpu`, `cuda` or `cuda:n` (`PERVL_DEVICE`).
        precision: None: fp16 on CUDA, fp32 elsewhere (`PERVL_PRECISION`).
        preprocessing: How images are resized, cropped and normalised: as upstream, or as the model was published
            (`PERVL_PREPROCESSING`).
        top_objects: How many of the most common objects are classes (`PERVL_TOP_OBJECTS`).
        openimages_names: Rule by which class names are read (`PERVL_OPENIMAGES_NAMES`).
        splits: Whether the benchmarks' splits are as published, or made disjoint by scene (`PERVL_SPLITS`).
        feature_shards: Number of partitions of the image features (`PERVL_FEATURE_SHARDS`).
        executor: How Dagster runs steps (`PERVL_EXECUTOR`).
        fetch: `official`, `off`, or the address of a mirror of the public inputs (`PERVL_FETCH`).
        timezone: Of the schedules (`PERVL_TIMEZONE`).
        revalidate_cron: When the servers of the public inputs are asked (`PERVL_REVALIDATE_CRON`).
        verify_cron: When results are held against their manifests (`PERVL_VERIFY_CRON`).
        watch_seconds: How often the sensors look (`PERVL_WATCH_SECONDS`).
        fresh_days: After how many days without a look at it a public input is no longer fresh; a warning comes a day
            before (`PERVL_FRESH_DAYS`).
    """

    data: Path
    profile: Profile
    annotations: Path | None
    clip_model: str
    clip_pretrained: str
    device: str
    precision: Precision | None
    preprocessing: PreprocessingRule
    top_objects: int
    openimages_names: NamesRule
    splits: SplitRule
    feature_shards: int
    executor: Executor
    fetch: str
    timezone: str
    revalidate_cron: str
    verify_cron: str
    watch_seconds: int
    fresh_days: int

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from environment variables.

        Raises:
            PervlError: A variable has a value that is not one of those allowed; every such variable is named.
        """
        wrong: list[str] = []

        def choose(name: str, default: str, allowed: tuple[str, ...]) -> str:
            value = env.get(name) or default
            if value not in allowed:
                wrong.append(f"{name}={value!r}: one of {', '.join(a for a in allowed if a)}")
            return value

        def count(name: str, default: int) -> int:
            value = env.get(name) or str(default)
            if not value.isascii() or not value.isdigit() or int(value) < 1:
                wrong.append(f"{name}={value!r}: a whole number of at least 1")
                return default
            return int(value)

        def read_cron(name: str, default: str) -> str:
            value = env.get(name) or default
            if len(value.split()) != 5:
                wrong.append(f"{name}={value!r}: five fields of cron, e.g. {default}")
            return value

        fetch = env.get("PERVL_FETCH") or "official"
        if fetch not in ("official", "off") and not fetch.startswith(("http://", "https://")):
            wrong.append(f"PERVL_FETCH={fetch!r}: official, off, or the http(s) address of a mirror")
        timezone = env.get("PERVL_TIMEZONE") or "UTC"
        try:
            ZoneInfo(timezone)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            wrong.append(f"PERVL_TIMEZONE={timezone!r}: a name like UTC or Europe/Berlin")
        demo = choose("PERVL_PROFILE", "demo", get_args(Profile)) != "full"
        device = env.get("PERVL_DEVICE") or "auto"
        if not is_device(device):
            wrong.append(f"PERVL_DEVICE={device!r}: {DEVICES}")
        annotations = env.get("PERVL_ANNOTATIONS")
        clip_model = env.get("PERVL_CLIP_MODEL") or (str(TINY_CLIP) if demo else "ViT-B-32-quickgelu")
        settings = cls(
            data=Path(env.get("PERVL_DATA") or ("data/demo" if demo else "data")).expanduser().absolute(),
            profile="demo" if demo else "full",
            annotations=Path(annotations).expanduser().absolute() if annotations else None,
            clip_model=clip_model,
            clip_pretrained=env.get("PERVL_CLIP_PRETRAINED") or ("" if Path(clip_model).is_dir() else "openai"),
            device=device,
            precision=choose("PERVL_PRECISION", "", ("", *get_args(Precision))) or None,  # type: ignore[arg-type]
            preprocessing=choose("PERVL_PREPROCESSING", "upstream", get_args(PreprocessingRule)),  # type: ignore[arg-type]
            top_objects=count("PERVL_TOP_OBJECTS", 30 if demo else 1000),
            openimages_names=choose("PERVL_OPENIMAGES_NAMES", "csv", get_args(NamesRule)),  # type: ignore[arg-type]
            splits=choose("PERVL_SPLITS", "official", get_args(SplitRule)),  # type: ignore[arg-type]
            feature_shards=count("PERVL_FEATURE_SHARDS", 2 if demo else 8),
            executor=choose("PERVL_EXECUTOR", "multiprocess", get_args(Executor)),  # type: ignore[arg-type]
            fetch=fetch,
            timezone=timezone,
            revalidate_cron=read_cron("PERVL_REVALIDATE_CRON", "0 3 * * 1"),
            verify_cron=read_cron("PERVL_VERIFY_CRON", "0 2 * * *"),
            watch_seconds=count("PERVL_WATCH_SECONDS", 300),
            fresh_days=count("PERVL_FRESH_DAYS", 9),
        )
        if wrong:
            raise PervlError(
                f"{len(wrong)} environment variable{'s have' if len(wrong) > 1 else ' has'} "
                "a value that means nothing here.",
                details=wrong,
                advice="Correct or unset the variables named above; docs/operating.md lists them all.",
            )
        return settings
