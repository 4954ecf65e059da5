"""CLIP as this project runs it: images and texts to feature vectors, and issuing the passport that says with what.

Belongs here: device, precision, batches and forward passes. Does not belong here: where weights come from
(`checkpoints`), decoding images (`clip_preprocess`), and what becomes of the vectors (`clip_features`).
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from pervl_assets.clip.checkpoints import Checkpoint, fill_model, find_checkpoint, read_weights
from pervl_assets.clip.context_length import count_tokens, cut_context
from pervl_assets.clip.passport import EmbeddingPassport, Precision
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing, PreprocessingRule, choose_preprocessing
from pervl_assets.core.errors import CheckpointError, PervlError
from pervl_assets.core.files import hash_file

if TYPE_CHECKING:
    import torch

PROMPT: Final = "This is a photo of a "
"""What stands before a class name whose text feature is taken (upstream rule F5)."""

TEXT_BATCH: Final = 256


def choose_device(device: str) -> str:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:n` to a device that is there.

    Raises:
        PervlError: CUDA was asked for by name and is not there, or has no device of that number.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    wanted = torch.device(device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise PervlError(
            f"The device {device} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices.",
            advice="Set PERVL_DEVICE to auto or cpu, or run where there is a GPU and a driver.",
        )
    return device


def describe_encoder(
    model: str,
    pretrained: str,
    device: str,
    precision: Precision | None,
    preprocessing: PreprocessingRule = "upstream",
) -> EmbeddingPassport:
    """Return the passport of the encoder that `load_encoder` would load, without loading it, so without its notes.

    Args:
        model: See `find_checkpoint`.
        pretrained: See `find_checkpoint`.
        device: `auto`, `cpu`, `cuda` or `cuda:n`.
        precision: None: fp16 on CUDA, as upstream's CLIP has it, and fp32 on the CPU.
        preprocessing: See `choose_preprocessing`.

    Raises:
        CheckpointError: See `find_checkpoint` and `choose_preprocessing`.
        PervlError: The device is not there.
    """
    checkpoint = find_checkpoint(model, pretrained)
    chosen = _choose_preprocessing(checkpoint, preprocessing)
    return _issue_passport(checkpoint, choose_device(device), precision, chosen)


def _choose_preprocessing(checkpoint: Checkpoint, rule: PreprocessingRule) -> Preprocessing:
    vision = checkpoint.config.get("vision_cfg", {})
    return choose_preprocessing(rule, checkpoint.model, vision, checkpoint.preprocessing)


def _issue_passport(
    checkpoint: Checkpoint,
    device: str,
    precision: Precision | None,
    preprocessing: Preprocessing,
) -> EmbeddingPassport:
    kind: Literal["cpu", "cuda"] = "cuda" if device.startswith("cuda") else "cpu"
    return EmbeddingPassport(
        model=checkpoint.model,
        architecture_sha256=checkpoint.architecture_sha256,
        weights_sha256=hash_file(checkpoint.weights),
        preprocessing=preprocessing.describe(),
        precision=precision or ("fp16" if kind == "cuda" else "fp32"),
        device=kind,
        dimension=int(checkpoint.config["embed_dim"]),
        torch=version("torch"),
        open_clip=version("open_clip_torch"),
        pillow=version("pillow"),
    )


def load_encoder(
    model: str,
    pretrained: str,
    device: str,
    precision: Precision | None,
    preprocessing: PreprocessingRule = "upstream",
) -> "ClipEncoder":
    """Load a CLIP with its weights and tokenizer onto a device. Arguments as of `describe_encoder`.

    Raises:
        CheckpointError: The checkpoint cannot be found, read or fitted into the model, or the model does not take what
            the preprocessing makes.
        PervlError: The device is not there.
    """
    import open_clip
    import torch

    checkpoint = find_checkpoint(model, pretrained)
    chosen = _choose_preprocessing(checkpoint, preprocessing)
    passport = _issue_passport(checkpoint, choose_device(device), precision, chosen)
    weights = read_weights(checkpoint)
    try:
        clip = open_clip.CLIP(**checkpoint.config, cast_dtype=open_clip.get_cast_dtype(passport.precision))
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.model} is not a plain CLIP of an image and a text tower: {error}",
            advice="Choose a model of OpenAI's kind, e.g. ViT-B-32-quickgelu or ViT-L-14-quickgelu.",
        ) from error
    if passport.precision != "fp32":
        open_clip.convert_weights_to_lp(clip, torch.float16 if passport.precision == "fp16" else torch.bfloat16)
    fill_model(clip, weights, checkpoint)
    source = f"local-dir:{checkpoint.folder}" if checkpoint.folder else checkpoint.model
    merges = {"bpe_path": str(checkpoint.bpe)} if checkpoint.bpe else {}
    tokenizer = open_clip.get_tokenizer(source, **merges)
    words, known = tokenizer.vocab_size, clip.vocab_size
    if words > known:
        raise CheckpointError(
            f"The tokenizer of {checkpoint.model} has {words:,} tokens, its model embeds {known:,}.",
            advice="Lay the byte-pair merges the model was trained with beside its configuration, as *.txt.gz.",
        )
    return ClipEncoder(clip, tokenizer, passport, torch.device(choose_device(device)), chosen)


_last: "tuple[EmbeddingPassport, str, ClipEncoder] | None" = None


def reuse_encoder(
    model: str,
    pretrained: str,
    device: str,
    precision: Precision | None,
    preprocessing: PreprocessingRule = "upstream",
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
    """Images and texts to feature vectors: float32, not normalised (upstream rules E2 and F3).

    A batch that does not fit into the device's memory is halved, and so are those after it.

    Args:
        model: A CLIP with `encode_image` and `encode_text`, its weights loaded.
        tokenizer: Texts to a tensor of token numbers (M, context length).
        passport: What the vectors will depend on.
        device: Where the model goes.
        preprocessing: What is done to an image, by whoever decodes it and here.

    Attributes:
        passport: What the vectors depend on.
        preprocessing: How images must be prepared.
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
            return cast("torch.Tensor", self._model.encode_image(scaled.to(self._dtype)))

        return self._encode(np.ascontiguousarray(images), forward)

    def encode_texts(
        self,
        texts: list[str],
        batch_size: int = TEXT_BATCH,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """Encode texts, `batch_size` at a time.

        Texts of the same tokens (CLIP lower-cases) are encoded once, so that their vectors are equal to the last bit
        and the lowest index wins among them (upstream rule F4).

        Args:
            texts: Any number of texts.
            batch_size: How many are encoded at once.
            report: Called after every batch with the number of different texts done and their total.

        Returns:
            Vectors, float32 of shape (M, D).

        Raises:
            PervlError: Not even one text fits into the device's memory, or a vector is not finite.
        """
        import torch

        def forward(part: npt.NDArray[Any]) -> "torch.Tensor":
            length = int(count_tokens(part).max())
            with cut_context(self._model, length):
                return cast("torch.Tensor", self._model.encode_text(self._move(torch.from_numpy(part[:, :length]))))

        if not texts:
            return self._no_vectors()
        tokens, rows = np.unique(self._tokenizer(texts).numpy(), axis=0, return_inverse=True)
        order = np.argsort(count_tokens(tokens), kind="stable")  # short texts together, so that each batch is cut short
        tokens, places = tokens[order], np.argsort(order)
        batches = []
        for start in range(0, len(tokens), batch_size):
            batches.append(self._encode(tokens[start : start + batch_size], forward))
            report(min(start + batch_size, len(tokens)), len(tokens))
        return np.concatenate(batches)[places[rows.ravel()]]

    def _move(self, tensor: "torch.Tensor") -> "torch.Tensor":
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

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
                        advice="End other processes on the device, choose another one with PERVL_DEVICE, or set "
                        "PERVL_PRECISION=fp16.",
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
                f"{wrong} of {len(result)} vectors of {self.passport.model} in {self.passport.precision} "
                "are not finite.",
                advice="Set PERVL_PRECISION=fp32; if they still are not finite, the checkpoint is damaged.",
            )
        return result

    def _no_vectors(self) -> npt.NDArray[np.float32]:
        return np.empty((0, self.passport.dimension), dtype=np.float32)
