"""CLIP checkpoints: which file holds the weights of a model, and reading it without running any code in it."""

import argparse
import difflib
import functools
import importlib.util
import json
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pervl_assets.core.errors import CheckpointError, name_some
from pervl_assets.core.file_kinds import recognize_file
from pervl_assets.core.files import explain_read_errors, hash_bytes, hash_file

if TYPE_CHECKING:
    import torch

_CONFIG: Final = "open_clip_config.json"
_FOLDER_WEIGHTS: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pt")
_HF_FILES: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
"""Files of a text tower or tokenizer from Hugging Face, which a model folder may hold."""

_OPENAI_ONLY: Final = ("input_resolution", "context_length", "vocab_size")
_CONTAINERS: Final = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the weights."""

_PREFIXES: Final = ("module.", "_orig_mod.", "model.")
"""Prefixes of names: from DistributedDataParallel, torch.compile and Lightning."""

_FETCH_BY_HAND: Final = (
    "Fetch a checkpoint where there is a network, e.g. open_clip_model.safetensors of "
    "https://huggingface.co/timm/vit_base_patch32_clip_224.openai, and set PERVL_CLIP_PRETRAINED to its path."
)
_COMPARE: Final = (
    "Compare its size and sha256 with its publisher's. If they differ, fetch it again; if not, its format is not read "
    "here: save its weights with safetensors."
)
_SAVE_WEIGHTS: Final = "Save its weights alone, e.g. safetensors.torch.save_file(model.state_dict(), path)."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A model and the file with its weights.

    Attributes:
        model: open_clip's name of the model, or the name of its folder.
        config: The architecture as open_clip describes it: `embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu` etc.
        weights: Path of the weights.
        folder: The model's folder, if it is one.
        bpe: The folder's own byte-pair merges of the tokenizer (`*.txt.gz`), if it has some.
        preprocessing: Published `mean`, `std`, `interpolation` and `resize_mode` of images, as far as they are known.
    """

    model: str
    config: dict[str, Any]
    weights: Path
    folder: Path | None = None
    bpe: Path | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture_sha256(self) -> str:
        """The sha256 of the architecture, and of the folder's own byte-pair merges and Hugging Face files."""
        parts: list[Any] = [self.config, hash_file(self.bpe) if self.bpe else ""]
        files = [self.folder / name for name in _HF_FILES] if self.folder else []
        parts += [{path.name: hash_file(path)} for path in files if path.is_file()]
        return hash_bytes(json.dumps(parts, sort_keys=True).encode())

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the weights' file, computed once per process while its size and times stay the same."""
        state = self.weights.stat()
        return _hash_once(self.weights, state.st_size, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=8)
def _hash_once(path: Path, *state: int) -> str:
    return hash_file(path)


def parse_encoders(text: str) -> dict[str, tuple[str, str]]:
    """Parse a list of further encoders, `MODEL=WEIGHTS,…`, without loading open_clip.

    `ViT-L-14-quickgelu=openai` is `{"ViT-L-14-quickgelu_openai": ("ViT-L-14-quickgelu", "openai")}`. The weights of a
    model folder may be empty.

    Returns:
        Model and weights, as `find_checkpoint` takes them, by a name that is safe in asset keys and paths.

    Raises:
        ValueError: A model is unknown, or an encoder has no weights or occurs twice.
    """
    encoders: dict[str, tuple[str, str]] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        model, separator, weights = (each.strip() for each in part.partition("="))
        is_folder = find_folder(model) is not None
        if not is_folder and model not in _list_models():
            close = name_some(difflib.get_close_matches(model, _list_models(), n=5, cutoff=0.3))
            raise ValueError(
                f"{model!r} is neither a folder nor a model of open_clip" + (f"; {close}" if close else "")
            )
        if not separator or not (weights or is_folder):
            raise ValueError(f"{part!r} has no weights; write MODEL=WEIGHTS, e.g. ViT-L-14-quickgelu=openai")
        own = f"_{Path(weights).stem}" if weights else ""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", (Path(model).name if is_folder else model) + own)
        # Dagster's op names and some file systems take - for _, and capitals for small letters.
        if name.lower().replace("-", "_") in {other.lower().replace("-", "_") for other in encoders}:
            raise ValueError(f"{name} occurs twice; name the files of different weights differently")
        encoders[name] = model, weights
    return encoders


def takes_tokens(model: str) -> bool:
    """Return whether learned tokens can be in texts of a model, as its configuration says, without loading open_clip.

    A text tower of Hugging Face has no word embeddings of its own, and the tokenizer of SigLIP drops the place `*`.
    See `clip.token_texts`, where any other model that takes no tokens is an error.
    """
    folder = find_folder(model)
    try:
        config = json.loads((folder / _CONFIG if folder else _list_models()[model]).read_text(encoding="utf-8"))
        text = (config["model_cfg"] if folder else config)["text_cfg"]
        return "hf_model_name" not in text and text.get("tokenizer_kwargs", {}).get("clean") != "canonicalize"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # explained when it is loaded
        return True


@functools.cache
def _list_models() -> dict[str, Path]:
    """Return the configuration files of open_clip's models by their names."""
    spec = importlib.util.find_spec("open_clip")  # finds the package without loading it, and torch with it
    folders = (spec and spec.submodule_search_locations) or []
    return {path.stem: path for folder in folders for path in Path(folder, "model_configs").glob("*.json")}


def find_folder(model: str) -> Path | None:
    """Return the folder of a model; None if it is a name, or not the path of a folder."""
    with suppress(OSError, RuntimeError):  # too long for a path, or the home of nobody
        if (folder := Path(model).expanduser()).is_dir():
            return folder
    return None


def find_checkpoint(model: str, pretrained: str) -> Checkpoint:
    """Find a model's architecture and the file with its weights; fetches the file of a pretrained tag.

    Args:
        model: An open_clip model name, or a folder with `open_clip_config.json`, weights, and optionally the
            tokenizer's byte-pair merges as the one file `*.txt.gz`.
        pretrained: A pretrained tag of the model, or the path of a checkpoint; empty for a folder's own weights.

    Raises:
        CheckpointError: No such model, tag or file; or the tag's file cannot be fetched.
        ArchiveError: A file cannot be read.
    """
    weights = Path(os.path.expanduser(pretrained))  # noqa: PTH111 - which leaves the home of nobody as it is
    with explain_read_errors(weights):
        folder = find_folder(model)
        return _find_in_folder(folder, weights) if folder else _find_by_name(model, pretrained, weights)


def _find_in_folder(folder: Path, chosen: Path) -> Checkpoint:
    advice = f"Use open_clip's local-dir layout: {_CONFIG} and {_FOLDER_WEIGHTS[0]}; or name an open_clip model."
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        config, published = {**content["model_cfg"]}, content.get("preprocess_cfg") or {}
        parts = (config.get("vision_cfg", {}), config.get("text_cfg", {}), published)
        if not isinstance(config["embed_dim"], int) or not all(isinstance(part, dict) for part in parts):
            raise TypeError("embed_dim is a whole number; vision_cfg, text_cfg and preprocess_cfg are mappings")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"The model folder {folder} has no readable {_CONFIG}: {error!r}.", advice=advice
        ) from error
    candidates = [chosen] if chosen.name else [folder / name for name in _FOLDER_WEIGHTS]
    weights = next((path for path in candidates if path.is_file()), None)
    if weights is None:
        raise CheckpointError(
            f"No weights for the model folder {folder}: none of {name_some(candidates)} is a file.", advice=advice
        )
    merges = sorted(folder.glob("*.txt.gz"))
    if len(merges) > 1:
        raise CheckpointError(
            f"The model folder {folder} holds {len(merges)} files of byte-pair merges: "
            f"{name_some([path.name for path in merges])}.",
            advice="Keep the one of its tokenizer.",
        )
    bpe = merges[0] if merges else None
    return Checkpoint(folder.name, config, weights, folder, bpe, published)


def _find_by_name(model: str, pretrained: str, path: Path) -> Checkpoint:
    import open_clip

    known = open_clip.list_models()
    if model not in known:
        close = difflib.get_close_matches(model, known, n=5, cutoff=0.3)
        raise CheckpointError(
            f"{model[:200]!r} is neither a folder nor one of open_clip's {len(known)} models.",
            advice=f"Set PERVL_CLIP_MODEL to a name open_clip knows ({name_some(close) or 'ViT-B-32-quickgelu'}), "
            f"or to a folder with {_CONFIG}.",
        )
    config = open_clip.get_model_config(model)
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if tag and bool(tag.get("quick_gelu")) != bool(config.get("quick_gelu")):
        raise CheckpointError(
            f"The weights {pretrained!r} of {model} were trained with a different activation than the model has.",
            advice=f"Set PERVL_CLIP_MODEL to {_swap_activation(model)}.",
        )
    if tag:
        return Checkpoint(model, config, _fetch(model, pretrained, tag), preprocessing=tag)
    if not pretrained or not path.is_file():
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise CheckpointError(
            f"No weights for {model}: {pretrained[:99]} is neither one of its {len(tags)} pretrained tags nor a file.",
            advice=f"Set PERVL_CLIP_PRETRAINED to the path of a checkpoint, or to a tag: {name_some(tags)}.",
        )
    return Checkpoint(model, config, path, preprocessing=_agree_on_preprocessing(model))


def _agree_on_preprocessing(model: str) -> dict[str, Any]:
    """Return the preprocessing that all pretrained tags of a model share; empty if they differ."""
    import open_clip

    published = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    shared = ("mean", "std", "interpolation", "resize_mode")
    found = {json.dumps({name: each.get(name) for name in shared}) for each in published}
    return dict(json.loads(found.pop())) if len(found) == 1 else {}


def _swap_activation(model: str) -> str:
    suffix = "-quickgelu"
    return model.removesuffix(suffix) if model.endswith(suffix) else model + suffix


def _fetch(model: str, tag: str, description: dict[str, Any]) -> Path:
    """Return the file of a pretrained tag: from open_clip's cache, else from the network."""
    from open_clip import pretrained as open_clip_pretrained

    if cached := _find_cached(description):
        return cached
    try:
        return Path(open_clip_pretrained.download_pretrained(description))
    except Exception as error:  # the hub, the network and the cache raise types of their own
        raise CheckpointError(
            f"The weights {tag!r} of {model} are not in the cache and cannot be fetched: {_read_first_line(error)}",
            advice=_FETCH_BY_HAND,
        ) from error


def _find_cached(description: dict[str, Any]) -> Path | None:
    """Return the file from the hub's cache: without a network the hub tries to reach its server for half a minute."""
    import huggingface_hub
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, file = description.get("hf_hub", "").rpartition("/")
    if not repository:
        return None
    names = [str(Path(file).with_suffix(".safetensors")), file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    paths = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _read_first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_weights(checkpoint: Checkpoint) -> "dict[str, torch.Tensor]":
    """Read the weights of a checkpoint, whatever its suffix: safetensors, or a file of `torch.save`.

    Its content may be a state dict, or a training checkpoint that holds one as `state_dict`, `model` or
    `model_state_dict`. Prefixes that all names have (`module.`, `_orig_mod.`, `model.`) are removed. Files of
    `torch.save` are read with `weights_only=True`, so no code in them runs; an `argparse.Namespace` next to the weights
    is ignored.

    Returns:
        Tensors by name, without OpenAI's numbers `input_resolution`, `context_length` and `vocab_size`.

    Raises:
        CheckpointError: The file is missing or damaged, holds other Python objects or a TorchScript archive, or is
            OpenAI's and the model does not use OpenAI's QuickGELU.
        ArchiveError: The system cannot read the file: no permission, a disk error, too many open files.
    """
    import torch

    path = checkpoint.weights
    content = _load(path)
    for _ in _CONTAINERS:
        inner = [
            content[key] for key in _CONTAINERS if isinstance(content, dict) and isinstance(content.get(key), dict)
        ]
        content = inner[0] if inner else content
    items = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, torch.Tensor)}
    weights = {name: tensor for name, tensor in tensors.items() if name not in _OPENAI_ONLY}
    if not weights:
        raise CheckpointError(f"The checkpoint {path} holds no state dict.", advice=_SAVE_WEIGHTS)
    if "input_resolution" in tensors and not checkpoint.config.get("quick_gelu"):
        raise CheckpointError(
            f"{path} holds OpenAI's weights, trained with QuickGELU, which {checkpoint.model} does not use.",
            advice=f"Set PERVL_CLIP_MODEL to {_swap_activation(checkpoint.model)}.",
        )
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _load(path: Path) -> Any:
    """Read a file of tensors. Raises as `read_weights` does."""
    import safetensors.torch
    import torch

    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        _check_zip(path)
        try:
            return _unpickle(path)
        except Exception as error:
            if "argparse.Namespace" not in str(error):
                raise
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = _unpickle(path)
        _log.warning("%s also holds training options (argparse.Namespace); only its weights are used.", path)
        return content
    except OSError:
        with explain_read_errors(path):
            raise
    except Exception as error:  # torch, pickle and safetensors raise types of their own on damaged bytes
        text, advice = str(error), _COMPARE
        problem = _read_first_line(error)
        if kind := recognize_file(path):
            problem, advice = f"it is {kind.name}.", kind.advice
        elif "torchscript" in text.lower():
            problem, advice = "it is a TorchScript archive, whose code this project does not run.", _FETCH_BY_HAND
        elif refused := re.search(r"GLOBAL (\S+) (?:was not|whose)", text):
            problem = f"it holds more than tensors: {refused[1]}, which would have to run code."
            advice = _SAVE_WEIGHTS
        elif "weights_only" in problem or isinstance(error, LookupError):  # torch advises to run the code in the file
            problem = "it is damaged, or no checkpoint."
        raise CheckpointError(f"The checkpoint {path} cannot be read: {problem}", advice=advice) from error


def _unpickle(path: Path) -> Any:
    import torch

    with path.open("rb") as file:  # by its path, torch would read a file of another suffix as safetensors
        return torch.load(file, map_location="cpu", weights_only=True)


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors: the header's length in 8 bytes, and its JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _check_zip(path: Path) -> None:
    """Refuse TorchScript archives, and compressed members: `torch.save` writes none, and they may not fit in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise ValueError("TorchScript")
        if any(member.file_size != member.compress_size for member in members):
            raise ValueError("its members are compressed, which torch.save does not do")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members share their bytes, which torch.save does not do")


def _convert_weights(model: "torch.nn.Module", weights: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Return weights under the names and shapes of open_clip's newest layout, for checkpoints of older ones."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    expected = model.state_dict()
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and "positional_embedding" not in expected:
        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        if name in weights and name in expected and weights[name].numel() == expected[name].numel():
            weights[name] = weights[name].reshape(expected[name].shape)
    if "logit_bias" in expected and "logit_bias" not in weights and "logit_scale" in weights:
        weights["logit_bias"] = expected["logit_bias"]  # a number of the loss, which no feature depends on
    unused = "text.transformer.embeddings.position_ids"
    return {name: tensor for name, tensor in weights.items() if name != unused or name in expected}


def fill_model(model: "torch.nn.Module", weights: "dict[str, torch.Tensor]", checkpoint: Checkpoint) -> None:
    """Copy weights into the model if they have exactly its names and shapes.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of other shapes; counts them and names the first ten.
    """
    weights = _convert_weights(model, weights)
    targets = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    actual = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = {
        "missing": [name for name in expected if name not in actual],
        "unexpected": [name for name in actual if name not in expected],
        "of another shape": [
            f"{name} is {actual[name]}, not {shape}"
            for name, shape in expected.items()
            if actual.get(name, shape) != shape
        ],
        "no plain numbers": [
            f"{name} is {tensor.dtype}, {tensor.layout}, on {tensor.device}"
            for name, tensor in weights.items()
            if name in targets and not _is_like(tensor, targets[name])
        ],
    }
    if any(wrong.values()):
        raise CheckpointError(
            f"{checkpoint.weights} does not hold the weights of {checkpoint.model}: of {len(expected)} tensors "
            f"{len(wrong['missing'])} missing and {len(wrong['of another shape'])} of another shape; "
            f"{len(wrong['unexpected'])} unexpected, {len(wrong['no plain numbers'])} without plain numbers.",
            details=[f"{what}: {name_some(names)}" for what, names in wrong.items() if names],
            advice="Set PERVL_CLIP_MODEL to the architecture this checkpoint was made with, or "
            "PERVL_CLIP_PRETRAINED to a checkpoint of this one.",
        )
    model.load_state_dict(weights)


def _is_like(tensor: "torch.Tensor", target: "torch.Tensor") -> bool:
    """Return whether a tensor can be copied without loss of meaning: no integers, complex or sparse ones for floats."""
    same_kind = tensor.is_floating_point() == target.is_floating_point()
    return same_kind and tensor.layout == target.layout and not tensor.is_meta
