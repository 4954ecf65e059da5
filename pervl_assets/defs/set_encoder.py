"""Training of the inversion model as an asset: one trained f_theta and A per repetition."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import tostring

import dagster as dg
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.clip.merge import merge_features
from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.core.plots import draw_curves
from pervl_assets.core.progress import Progress
from pervl_assets.defs.checks import to_check_result
from pervl_assets.defs.features import IMAGE_FEATURES, INVERSION, name_key
from pervl_assets.defs.metadata import OWNERS, embed_image
from pervl_assets.defs.placement import GPU_POOL, claim_step
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.io_managers.weights import WeightsIOManager
from pervl_assets.training.modes import MODES, PROMPTS, read_prompts
from pervl_assets.training.set_encoder import TrainedSetEncoder, TrainingPassport, check_curves, check_weights
from pervl_assets.training.train import VERSION, train_set_encoder
from pervl_assets.training.training_data import TrainingData, check_classes, collect_training_data

TRAINING: Final = "training"

_FINITE: Final = "finite_weights"
_FELL: Final = "loss_fell"
_TRAINED: Final = "every_class_is_trained"
_CHECKS: Final = {
    _FINITE: "Every parameter is a finite number.",
    _FELL: "The cycle loss of sets of images is lower in the last tenth of the epochs than in the first. A "
    "warning: with few epochs it may not be.",
    _TRAINED: "Every object class has images to train on: 8 with features in the mode `palavra`, 2 in "
    "`paper`. A warning: the others are left out, where PALAVRA would stop.",
}

_DESCRIPTION: Final = """\
PALAVRA's inversion model, trained once per repetition. It is the set encoder f_theta, which predicts a token from a
few images, and the alignment A of text features with image features. The weights of the paper were never published.

They are trained on features of images and on sentences of the object classes. CLIP does not change, and no image is
encoded. In an epoch every class is drawn once as a set of images and once as a set of sentences.
`PERVL_TRAINING_MODE` chooses between upstream's code with all its quirks and the text of the paper. Each repetition has
a seed of its own. After a kill only the epoch that had begun is repeated."""

_PUSH_SECONDS: Final = 60.0
"""Between two uploads of a saved epoch, which has 1.1 GB at width 4,096."""


def build_set_encoder(repetitions: int, encoder: str | None = None) -> dg.AssetsDefinition:
    """Return the asset of the trained inversion models, with a partition per repetition: `1`, `2` and so on.

    Args:
        repetitions: Number of trainings.
        encoder: Name of a further encoder; None: the default one.
    """
    key = name_key("set_encoder", encoder, TRAINING)

    @dg.asset(
        key=key,
        group_name=TRAINING,
        ins={
            "sentences": dg.AssetIn([INVERSION, "coco_object_sentences"]),
            "matches": dg.AssetIn([INVERSION, "openimages_matches"]),
            "shards": dg.AssetIn(name_key(IMAGE_FEATURES, encoder), partition_mapping=dg.AllPartitionMapping()),
        },
        partitions_def=dg.StaticPartitionsDefinition([str(number) for number in range(1, repetitions + 1)]),
        io_manager_key=WeightsIOManager.key,
        description=_DESCRIPTION if encoder is None else f"As `{TRAINING}/set_encoder`, with the encoder {encoder}.",
        kinds={"safetensors"},
        owners=OWNERS,
        code_version=VERSION,
        pool=GPU_POOL,
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in _CHECKS.items()],
    )
    @record_step(uses=("openimages_names", "training_mode", "training_prompts", "training_epochs", "set_encoder_width"))
    def set_encoder(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        clip: Clip,
        sentences: pl.DataFrame,
        matches: pl.DataFrame,
        shards: Mapping[str, Features],
    ) -> Iterator[dg.MaterializeResult[TrainedSetEncoder]]:
        stored, published = WeightsIOManager(data=workspace.data), clip.as_published()
        repetition, splits = context.partition_key, MODES[workspace.training_mode].splits
        data = collect_training_data(sentences, matches, merge_features([*shards.values()]), splits)
        trained = train_set_encoder(
            data,
            _make_passport(workspace, int(repetition), published.describe(encoder), data),
            lambda: published.load(encoder),
            stored.resume_work(key, repetition),
            stored.read_previous(key, repetition),
            read_prompts(Path(workspace.training_prompts)) if workspace.training_prompts else PROMPTS,
            _report_epochs(context, workspace.training_epochs),
            Progress(context.log.info, "sentences"),
            _limit(stored.store.push_file),
            claim_step(context),
        )
        yield _describe(trained, data)

    return set_encoder


def _limit(push: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a function that calls `push` for the same file at most once in `_PUSH_SECONDS`."""
    pushed = dict[Path, float]()

    def push_sometimes(file: Path) -> None:
        if time.monotonic() - pushed.get(file, -_PUSH_SECONDS) >= _PUSH_SECONDS:
            push(file)
            pushed[file] = time.monotonic()

    return push_sometimes


def _make_passport(
    workspace: Workspace, repetition: int, encoder: EmbeddingPassport, data: TrainingData
) -> TrainingPassport:
    """Return the passport of a training that is to be made."""
    return TrainingPassport(
        mode=workspace.training_mode,
        code=VERSION,
        seed=repetition,
        epochs=workspace.training_epochs,
        hidden=workspace.set_encoder_width,
        encoder=encoder,
        inputs_sha256=data.hash(),
        classes=len(data.classes),
        lost_images=data.features.rejected.height,
        preprocessing=data.features.passport.preprocessing,
        names=workspace.openimages_names,
    )


def _describe(trained: TrainedSetEncoder, data: TrainingData) -> dg.MaterializeResult[TrainedSetEncoder]:
    """Return the materialization of a training with its checks and curves."""
    return WeightsIOManager.describe(
        trained,
        checks=[
            to_check_result(_FINITE, check_weights(trained), "error"),
            to_check_result(_FELL, check_curves(trained.curves), "warning"),
            to_check_result(_TRAINED, check_classes(data), "warning"),
        ],
        **{loss: _draw(trained.curves, loss) for loss in ("cycle", "ground_truth", "alignment")},
        **{f"last cycle loss of {phase}": round(loss, 4) for phase, loss in _list_last(trained.curves)},
    )


def _list_last(curves: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Return the kinds of passes with their cycle loss in the last epoch."""
    last = curves.filter(pl.col("epoch") == pl.col("epoch").max(), pl.col("cycle").is_not_null())
    return last.select("phase", "cycle").iter_rows()


def _draw(curves: pl.DataFrame, loss: str) -> dg.MetadataValue:
    """Return the image of a loss, with a curve per kind of pass."""
    values = {
        phase: one[loss].to_list()
        for (phase,), one in curves.drop_nulls(loss).partition_by("phase", as_dict=True, maintain_order=True).items()
    }
    return embed_image(tostring(draw_curves(values, "epoch")), f"{loss} loss", "image/svg+xml")


def _report_epochs(context: dg.AssetExecutionContext, epochs: int) -> Callable[[pl.DataFrame], None]:
    """Return a function that reports an epoch and its losses."""
    progress = Progress(context.log.info, "epochs")

    def on_progress(curves: pl.DataFrame) -> None:
        losses = ", ".join(f"{phase} {loss:.3f}" for phase, loss in curves.tail(3).select("phase", "cycle").rows())
        progress(int(curves["epoch"][-1]), epochs, f"cycle loss: {losses}")

    return on_progress
