"""CLIP checkpoints: which file holds the weights of a model, and whether they fit it.

Belongs here: finding and reading weights without executing or unpickling anything untrusted, and holding them against
an architecture. Does not belong here: running a model.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pervl_assets.core.errors import CheckpointError, name_some
from pervl_assets.core.files import hash_bytes, hash_file

if TYPE_CHECKING:
    import torch

_CONFIG: Final = "open_clip_config.json"
_FOLDER_WEIGHTS: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pt")
_OPENAI_ONLY: Final = ("input_resolution", "context_length", "vocab_size")
_FETCH_BY_HAND: Final = (
    "Fetch a checkpoint where there is a network, e.g. open_clip_model.safetensors of "
    "https://huggingface.co/timm/vit_base_patch32_clip_224.openai, and set PERVL_CLIP_PRETRAINED to its path."
)


@dataclass(frozen=True)
class Checkpoint:
    """A model and the file with its weights.

    Attributes:
        model: open_clip's name of the model, or the name of its folder.
        config: The architecture: `embed_dim`, `vision_cfg`, `text_cfg` and `quick_gelu`, as open_clip describes it.
        weights: Path of the weights.
        folder: The model's folder, where it came as one.
        bpe: The tokenizer's byte-pair merges, where the folder brings its own (`*.txt.gz`).
        preprocessing: How images are prepared, as open_clip describes it, as far as it was published with the weights.
    """

    model: str
    config: dict[str, Any]
    weights: Path
    folder: Path | None = None
    bpe: Path | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture_sha256(self) -> str:
        """The sha256 of the architecture and of the folder's own byte-pair merges."""
        merges = hash_file(self.bpe) if self.bpe else ""
        return hash_bytes(json.dumps([self.config, merges], sort_keys=True).encode())


def find_checkpoint(model: str, pretrained: str) -> Checkpoint:
    """Find a model's architecture and the file with its weights; fetches the file of a pretrained tag.

    Args:
        model: An open_clip model name, or a folder with `open_clip_config.json`, weights, and optionally the
            tokenizer's byte-pair merges as the one file `*.txt.gz`.
        pretrained: A pretrained tag of the model, or the path of a checkpoint; empty for a folder's own weights.

    Raises:
        CheckpointError: No such model, tag or file; or the tag's file cannot be fetched.
    """
    folder = Path(model).expanduser()
    return _find_in_folder(folder, pretrained) if folder.is_dir() else _find_by_name(model, pretrained)


def _find_in_folder(folder: Path, pretrained: str) -> Checkpoint:
    advice = f"Lay the folder as open_clip's local-dir: {_CONFIG} and {_FOLDER_WEIGHTS[0]}; or name an open_clip model."
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        config = {**content["model_cfg"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The model folder {folder} has no readable {_CONFIG}: {error!r}.", advice=advice
        ) from error
    candidates = [Path(pretrained)] if pretrained else [folder / name for name in _FOLDER_WEIGHTS]
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
            advice="Leave the one its tokenizer was made with.",
        )
    bpe = merges[0] if merges else None
    return Checkpoint(folder.name, config, weights, folder, bpe, content.get("preprocess_cfg") or {})


def _find_by_name(model: str, pretrained: str) -> Checkpoint:
    import open_clip

    known = open_clip.list_models()
    if model not in known:
        close = difflib.get_close_matches(model, known, n=5, cutoff=0.3)
        raise CheckpointError(
            f"{model!r} is neither a folder nor one of open_clip's {len(known)} models.",
            advice=f"Set PERVL_CLIP_MODEL to a name open_clip knows ({name_some(close) or 'ViT-B-32-quickgelu'}), "
            f"or to a folder with {_CONFIG}.",
        )
    config = open_clip.get_model_config(model)
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if tag and bool(tag.get("quick_gelu")) != bool(config.get("quick_gelu")):
        raise CheckpointError(
            f"The weights {pretrained!r} of {model} were trained with another activation than the model has.",
            advice=f"Set PERVL_CLIP_MODEL to {_swap_activation(model)}.",
        )
    if tag:
        return Checkpoint(model, config, _fetch(model, pretrained, tag), preprocessing=tag)
    path = Path(pretrained).expanduser()
    if not pretrained or not path.is_file():
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise CheckpointError(
            f"No weights for {model}: {pretrained!r} is neither one of its {len(tags)} pretrained tags nor a file.",
            advice=f"Set PERVL_CLIP_PRETRAINED to the path of a checkpoint, or to a tag: {name_some(tags)}.",
        )
    return Checkpoint(model, config, path)


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
            f"The weights {tag!r} of {model} are not in the cache and cannot be fetched: {_say(error)}",
            advice=_FETCH_BY_HAND,
        ) from error


def _find_cached(description: dict[str, Any]) -> Path | None:
    """Look into the hub's cache: without a network the hub would first try for half a minute to reach its server."""
    import huggingface_hub
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, file = description.get("hf_hub", "").rpartition("/")
    if not repository:
        return None
    names = [str(Path(file).with_suffix(".safetensors")), file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    paths = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _say(error: Exception) -> str:
    """Return the first line of a foreign error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_weights(checkpoint: Checkpoint) -> "dict[str, torch.Tensor]":
    """Read a state dict: safetensors, or open_clip's or OpenAI's state dict through `torch.load(weights_only=True)`.

    Raises:
        CheckpointError: The file is missing or damaged, holds anything but tensors (a TorchScript archive, a pickled
            model), or is OpenAI's and the model lacks OpenAI's QuickGELU.
    """
    import torch

    path = checkpoint.weights
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise types of their own on damaged bytes
        script = "torchscript" in str(error).lower()
        raise CheckpointError(
            f"The checkpoint {path} cannot be read: "
            + ("it is a TorchScript archive, whose code this project does not run." if script else _say(error)),
            advice=_FETCH_BY_HAND if script else "Fetch it again and compare its size and sha256 with its publisher's.",
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"The checkpoint {path} holds no state dict.", advice=_FETCH_BY_HAND)
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if "input_resolution" in weights and not checkpoint.config.get("quick_gelu"):
        raise CheckpointError(
            f"{path} holds OpenAI's weights, trained with QuickGELU, which {checkpoint.model} has not.",
            advice=f"Set PERVL_CLIP_MODEL to {_swap_activation(checkpoint.model)}.",
        )
    return {name: tensor for name, tensor in weights.items() if name not in _OPENAI_ONLY}


def fill_model(model: "torch.nn.Module", weights: "dict[str, torch.Tensor]", checkpoint: Checkpoint) -> None:
    """Copy the weights into the model, if they are exactly the model's.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of other shapes; counts them and names the first ten.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    missing = [name for name in expected if name not in actual]
    unexpected = [name for name in actual if name not in expected]
    reshaped = [
        f"{name} is {actual[name]}, not {shape}"
        for name, shape in expected.items()
        if name in actual and actual[name] != shape
    ]
    if missing or unexpected or reshaped:
        groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        raise CheckpointError(
            f"{checkpoint.weights} does not hold the weights of {checkpoint.model}: of {len(expected)} tensors "
            f"{len(missing)} are missing and {len(reshaped)} of another shape; {len(unexpected)} are unexpected.",
            details=[f"{what}: {name_some(names)}" for what, names in groups if names],
            advice="Set PERVL_CLIP_MODEL to the architecture this checkpoint was made with, or "
            "PERVL_CLIP_PRETRAINED to a checkpoint of this one.",
        )
    model.load_state_dict(weights)
