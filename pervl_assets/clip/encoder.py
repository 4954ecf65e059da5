"""CLIP: images and texts to feature vectors, and the passport of the encoder."""

import importlib.util
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from pervl_assets.clip.checkpoints import Checkpoint, fill_model, find_checkpoint, read_weights
from pervl_assets.clip.passport import EmbeddingPassport, Precision, advise_on_precision
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing, PreprocessingMode, choose_preprocessing
from pervl_assets.core.errors import CheckpointError, PervlError

if TYPE_CHECKING:
    import torch

PROMPT: Final = "This is a photo of a "
"""Text before a name, e.g. `This is a photo of a dog`."""

TEXT_BATCH: Final = 256


def choose_device(device: str) -> str:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:n` to a device that exists.

    Raises:
        PervlError: There is no CUDA device of that number.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    wanted = torch.device(device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise PervlError(
            f"The device {device} does not exist: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices.",
            advice="Set PERVL_DEVICE to auto or cpu, or run where there is a GPU and a driver.",
        )
    return device


_taken: "tuple[str, socket.socket] | None" = None


def _take_device(device: str) -> str:
    """Return the first GPU that no other process of this project uses, where `cuda` leaves a choice among several.

    It is this process's until it ends. The lock is a Unix socket without a file: the system frees it, however the
    process ends. If all are in use, `cuda` is returned: torch takes the first.
    """
    import torch

    global _taken  # noqa: PLW0603 - a process has one device all its life
    if device != "cuda" or torch.cuda.device_count() == 1:
        return device
    for number in range(torch.cuda.device_count()) if _taken is None else ():
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0pervl/{torch.cuda.get_device_properties(number).uuid}")
        except OSError:
            lock.close()
        else:
            _taken = f"cuda:{number}", lock
            break
    return _taken[0] if _taken else device


def describe_encoder(
    model: str, pretrained: str, device: str, precision: Precision | None, preprocessing: PreprocessingMode = "upstream"
) -> EmbeddingPassport:
    """Return the passport of the encoder that `load_encoder` would load, without loading it. Notes are unset.

    Args:
        model: See `find_checkpoint`.
        pretrained: See `find_checkpoint`.
        device: `auto`, `cpu`, `cuda` or `cuda:n`.
        precision: None for fp16 on CUDA (as in OpenAI's CLIP) and fp32 on the CPU.
        preprocessing: See `choose_preprocessing`.

    Raises:
        CheckpointError: See `find_checkpoint` and `choose_preprocessing`.
        PervlError: The device is not there.
    """
    return _describe(model, pretrained, device, precision, preprocessing)[-1]


def _describe(
    model: str, pretrained: str, device: str, precision: Precision | None, mode: PreprocessingMode
) -> tuple[Checkpoint, Preprocessing, EmbeddingPassport]:
    checkpoint = find_checkpoint(model, pretrained)
    vision = checkpoint.config.get("vision_cfg", {})
    chosen = choose_preprocessing(mode, checkpoint.model, vision, checkpoint.preprocessing)
    kind: Literal["cpu", "cuda"] = "cuda" if choose_device(device).startswith("cuda") else "cpu"
    passport = EmbeddingPassport(
        model=checkpoint.model,
        architecture_sha256=checkpoint.architecture_sha256,
        weights_sha256=checkpoint.weights_sha256,
        preprocessing=chosen.describe(),
        precision=precision or ("fp16" if kind == "cuda" else "fp32"),
        device=kind,
        dimension=int(checkpoint.config["embed_dim"]),
        torch=version("torch"),
        open_clip=version("open_clip_torch"),
        pillow=version("pillow"),
    )
    return checkpoint, chosen, passport


def load_encoder(
    model: str, pretrained: str, device: str, precision: Precision | None, preprocessing: PreprocessingMode = "upstream"
) -> "ClipEncoder":
    """Load a CLIP with its weights and tokenizer onto a device. Arguments as of `describe_encoder`.

    Raises:
        CheckpointError: The checkpoint cannot be found, read or fitted into the model, or the model does not take what
            the preprocessing makes.
        PervlError: The device is not there.
    """
    import torch

    checkpoint, chosen, passport = _describe(model, pretrained, device, precision, preprocessing)
    weights = read_weights(checkpoint)
    clip = _build_model(checkpoint, passport.precision)
    fill_model(clip, weights, checkpoint)
    size = getattr(clip.visual, "image_size", chosen.crop)
    if size not in (chosen.crop, (chosen.crop, chosen.crop)):
        raise CheckpointError(
            f"{checkpoint.model} takes images of {size} pixels, not {chosen.crop} as in its configuration.",
            advice="Correct image_size in vision_cfg of its configuration.",
        )
    tokenizer = _load_tokenizer(checkpoint, getattr(clip, "text", clip))
    return ClipEncoder(clip, tokenizer, passport, torch.device(_take_device(choose_device(device))), chosen)


def _build_model(checkpoint: Checkpoint, precision: Precision) -> Any:
    """Build the architecture with random weights; no weights are fetched.

    Raises:
        CheckpointError: open_clip cannot build it, or needs a package that is not installed.
    """
    import open_clip

    text = checkpoint.config.get("text_cfg", {})
    options: dict[str, Any] = {}
    if checkpoint.folder and "hf_model_name" in text and (checkpoint.folder / "config.json").is_file():
        options["text_cfg"] = {**text, "hf_model_name": str(checkpoint.folder), "hf_model_pretrained": False}
    if "multimodal_cfg" in checkpoint.config:
        precision = "fp32"  # open_clip cannot convert all of a CoCa; the encoder runs it under autocast
    try:
        with _quiet():
            return open_clip.create_model(
                _name_source(checkpoint),
                load_weights=False,
                pretrained_image=False,
                pretrained_text=False,
                precision=precision,
                **options,
            )
    except Exception as error:  # open_clip, timm and transformers raise types of their own
        raise _explain(f"open_clip cannot build {checkpoint.model}", error) from error


def _load_tokenizer(checkpoint: Checkpoint, text_tower: Any) -> Callable[[list[str]], "torch.Tensor"]:
    """Return the model's tokenizer; one that cannot be loaded raises when it is first used, as images need none.

    Raises:
        CheckpointError: It has more tokens than the model embeds.
    """
    import open_clip

    merges = {"bpe_path": str(checkpoint.bpe)} if checkpoint.bpe else {}
    try:
        with _quiet():
            tokenizer = open_clip.get_tokenizer(_name_source(checkpoint), **merges)
    except Exception as error:  # transformers and the hub raise types of their own
        explained = _explain(f"The tokenizer of {checkpoint.model} cannot be loaded", error)

        def refuse(texts: list[str]) -> "torch.Tensor":
            raise explained

        return refuse
    words, known = getattr(tokenizer, "vocab_size", 0), getattr(text_tower, "vocab_size", 0)
    if known and words > known:
        raise CheckpointError(
            f"The tokenizer of {checkpoint.model} has {words:,} tokens, its model embeds {known:,}.",
            advice="Add the byte-pair merges of its training to its folder, as *.txt.gz.",
        )
    return cast("Callable[[list[str]], torch.Tensor]", tokenizer)


def _name_source(checkpoint: Checkpoint) -> str:
    return f"local-dir:{checkpoint.folder}" if checkpoint.folder else checkpoint.model


def _explain(problem: str, error: Exception) -> CheckpointError:
    """Return the error of a model or tokenizer that cannot be loaded, naming a package that is not installed."""
    for package in ("transformers", "sentencepiece"):
        if package in str(error) and importlib.util.find_spec(package) is None:
            return CheckpointError(
                f"{problem}: it needs the package {package}, which is not installed.",
                advice="Install the extra: pip install 'pervl_assets[hf]'.",
            )
    return CheckpointError(
        f"{problem}: {' '.join(str(error).split())[:300] or type(error).__name__}",
        advice="Check its open_clip_config.json. Without a network, config.json and tokenizer.json of a text tower of "
        "Hugging Face are read from the model's folder.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip, which warns that a model without weights has none."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


_last: "tuple[EmbeddingPassport, str, ClipEncoder] | None" = None


def reuse_encoder(
    model: str, pretrained: str, device: str, precision: Precision | None, preprocessing: PreprocessingMode = "upstream"
) -> "ClipEncoder":
    """Return the encoder that this process loaded last if its passport and device are these; else load it.

    Arguments and errors as of `load_encoder`.
    """
    global _last  # noqa: PLW0603 - the model of a process, which holds one of them at a time
    passport, device = describe_encoder(model, pretrained, device, precision, preprocessing), choose_device(device)
    if _last is None or _last[:2] != (passport, device):
        _last = None  # frees its memory before the next one is loaded
        _last = passport, device, load_encoder(model, pretrained, device, precision, preprocessing)
    return _last[2]


class ClipEncoder:
    """Turns images and texts into feature vectors: float32, not normalised.

    A batch that does not fit into the device's memory is halved, and so are those after it.

    Args:
        model: A CLIP with `encode_image` and `encode_text`, with its weights.
        tokenizer: Texts to a tensor of token numbers (M, context length).
        passport: Everything the vectors depend on; an attribute.
        device: The device the model is moved to.
        preprocessing: How images must be prepared; an attribute.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], "torch.Tensor"],
        passport: EmbeddingPassport,
        device: "torch.device",
        preprocessing: Preprocessing = UPSTREAM,
    ) -> None:
        import torch

        self.passport = passport
        self.preprocessing = preprocessing
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._device = device
        self._largest_batch = sys.maxsize
        self._dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[passport.precision]
        dtypes = {parameter.dtype for parameter in model.parameters()}
        self._autocast = passport.precision != "fp32" and dtypes == {torch.float32}
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)

    def encode_images(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode prepared images in one batch.

        Args:
            images: Pixels as `prepare_image` returns them, uint8 of shape (B, S, S, 3), S = `preprocessing.crop`.

        Returns:
            Vectors, float32 of shape (B, D).

        Raises:
            PervlError: Not even one image fits into the device's memory, or a vector is not finite.
        """
        import torch

        def forward(part: npt.NDArray[Any]) -> "torch.Tensor":
            pixels = self._move(torch.from_numpy(part))
            scaled = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(self._mean).div_(self._std)
            with self._cast():
                return cast("torch.Tensor", self._model.encode_image(scaled.to(self._dtype), normalize=False))

        return self._encode(np.ascontiguousarray(images), forward)

    def encode_texts(
        self,
        texts: list[str],
        batch_size: int = TEXT_BATCH,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """Encode texts, `batch_size` at a time.

        Texts with the same tokens (CLIP lower-cases) are encoded once, so that their vectors are equal to the last bit.

        Args:
            texts: Any number of texts.
            batch_size: Texts in one forward pass.
            on_progress: Called after every batch with the number of different texts done and their total.

        Returns:
            Vectors, float32 of shape (M, D).

        Raises:
            PervlError: Not even one text fits into the device's memory, or a vector is not finite.
        """
        if not texts:
            return self._no_vectors()
        numbers, rows = np.unique(self.tokenize(texts), axis=0, return_inverse=True)
        encode = self.encode_by_length(numbers, lambda part: self.forward_texts(numbers[part]), batch_size, on_progress)
        return encode[rows.ravel()]

    def encode_by_length(
        self,
        numbers: npt.NDArray[np.int64],
        forward: Callable[[npt.NDArray[np.int64]], "torch.Tensor"],
        batch_size: int = TEXT_BATCH,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """Encode tokenized texts without gradients, short ones together, so that each batch is cut short.

        Args:
            numbers: Token numbers (M, context length), see `tokenize`.
            forward: Turns some rows of `numbers`, named by their indices, into vectors (B, D).
            batch_size: Texts in one forward pass.
            on_progress: Called after every batch with the number of texts done and their total.

        Returns:
            Vectors, float32 of shape (M, D).

        Raises:
            PervlError: Not even one text fits into the device's memory, or a vector is not finite.
        """
        order = np.arange(len(numbers))
        if _can_cut_context(self.text_tower):  # end-of-text has the highest number
            order = np.argsort(numbers.argmax(axis=1), kind="stable")
        batches = [self._no_vectors()]
        for start in range(0, len(order), batch_size):
            batches.append(self._encode(order[start : start + batch_size], forward))
            on_progress(min(start + batch_size, len(order)), len(order))
        return np.concatenate(batches)[np.argsort(order)]

    @property
    def text_tower(self) -> Any:
        """The module that encodes texts: the model itself, or its part `text`."""
        return getattr(self._model, "text", self._model)

    def tokenize(self, texts: list[str]) -> npt.NDArray[np.int64]:
        """Return the token numbers of texts: int64 (M, context length). Equal texts are tokenized once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        return self._tokenizer([*rows]).numpy()[[rows[text] for text in texts]]

    def forward_texts(self, numbers: npt.NDArray[np.int64]) -> "torch.Tensor":
        """Encode tokenized texts in one forward pass, in the model's precision; gradients are kept where they are on.

        Where the tower allows it the context is cut behind the longest text.
        """
        import torch

        tower, length = self.text_tower, int(numbers.argmax(axis=1).max()) + 1
        can_cut = _can_cut_context(tower)
        tokens = self._move(torch.from_numpy(numbers[:, :length] if can_cut else numbers))
        with self._cast(), _cut_context(tower, length) if can_cut else nullcontext():
            return cast("torch.Tensor", self._model.encode_text(tokens, normalize=False))

    def _cast(self) -> "torch.autocast":
        """Return the context of a model whose weights are not in the precision that it runs in."""
        import torch

        return torch.autocast(self._device.type, self._dtype, self._autocast)

    def _move(self, tensor: "torch.Tensor") -> "torch.Tensor":
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    @property
    def largest_batch(self) -> int:
        """The largest number of inputs that is tried at once: it is halved where they do not fit into memory."""
        return self._largest_batch

    def _encode(
        self, inputs: npt.NDArray[Any], forward: Callable[[npt.NDArray[Any]], "torch.Tensor"]
    ) -> npt.NDArray[np.float32]:
        """Run forward passes over parts as large as fit into memory."""
        import torch

        vectors, start = [self._no_vectors()], 0
        while start < len(inputs):
            part = inputs[start : start + self._largest_batch]
            try:
                with torch.inference_mode():
                    vectors.append(forward(part).float().cpu().numpy())
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise PervlError(
                        f"The memory of {self._device} does not hold {self.passport.model} and a single input: {error}",
                        advice="End other processes on the device, or choose another one with PERVL_DEVICE"
                        + (", or set PERVL_PRECISION=fp16." if self.passport.precision == "fp32" else "."),
                    ) from error
                self._largest_batch = (len(part) + 1) // 2
            else:
                start += len(part)
                continue
            if self._device.type == "cuda":  # after the except block, so that the traceback holds no tensors any more
                torch.cuda.empty_cache()
        result = np.concatenate(vectors)
        wrong = int((~np.isfinite(result)).any(axis=1).sum())
        if wrong:
            raise PervlError(
                f"{wrong} of {len(result)} vectors of {self.passport.model} in {self.passport.precision} not finite.",
                advice=advise_on_precision(self.passport.precision),
            )
        return result

    def _no_vectors(self) -> npt.NDArray[np.float32]:
        return np.empty((0, self.passport.dimension), dtype=np.float32)


def _can_cut_context(tower: Any) -> bool:
    """Return whether a text tower is open_clip's own, with a causal mask and its feature at the end-of-text token."""
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    has_class_token = getattr(tower, "cls_emb", None) is not None
    return pooling == "argmax" and getattr(tower, "attn_mask", None) is not None and not has_class_token


@contextmanager
def _cut_context(tower: Any, length: int) -> Iterator[None]:
    """Run a text tower on its first positions only.

    With a causal mask, and the feature taken at the end-of-text token, the padding after it changes nothing: a prompt
    of 9 tokens takes a ninth of the 77 positions.
    """
    positions, mask = tower.positional_embedding.data, tower.attn_mask
    tower.positional_embedding.data, tower.attn_mask = positions[:length], mask[:length, :length]
    try:
        yield
    finally:
        tower.positional_embedding.data, tower.attn_mask = positions, mask
