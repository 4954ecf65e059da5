"""The two ways to train the inversion model: `palavra`, as upstream's code does, and `paper`, as the paper says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pervl_assets.core.errors import AnnotationError, MissingInputError, list_some
from pervl_assets.core.text import count_of
from pervl_assets.inversion.text_lines import read_lines
from pervl_assets.training.training_data import Splits

ModeName = Literal["palavra", "paper"]
Sets = Literal["image", "text"]

TEST_PROMPT: Final = "This is a photo of a *"

PROMPTS: Final = (
    TEST_PROMPT,
    "A photo of a *",
    "This is a picture of a *",
    "A picture of a *",
    "This is an image of a *",
    "An image of a *",
    "A close-up photo of a *",
    "A good photo of a *",
    "A bright photo of a *",
    "A snapshot of a *",
    "A drawing of a *",
    "A painting of a *",
    "A rendering of a *",
    "There is a *",
    "Here is a *",
    "We see an * in this photo ",
    "There is a * in this picture ",
    "A * in a photo ",
    "A * in a picture ",
    "A * can be seen here ",
    "The * in this image ",
    "A * is in this drawing ",
    "A photo with a * in it ",
    "A picture that shows a * well ",
)
"""Prompts of the training. As upstream's they are 24, and 9 of them end in a blank instead of `*`.

Upstream's licence keeps its own out of this package. The paper lists them in appendix A: `PERVL_TRAINING_PROMPTS`
replaces these."""

_LARGEST: Final = 100_000
"""Bytes of a file of prompts."""


@dataclass(frozen=True)
class TrainingMode:
    """How f_theta and A are trained. Quirks are named as in docs/evaluation.md.

    Attributes:
        name: Value of the setting `PERVL_TRAINING_MODE`.
        splits: How rows are split (quirk T1).
        target: What the query of a class must be near to. `text`: the prompt without its last character, and the label,
            as a text (quirks T2, T3). `set`: the mean of the vectors that the token was predicted from.
        ground_truth_weight: Weight of the ground-truth loss 2 - 2 cos. PALAVRA's 512 times its mean square is 1 here,
            the paper's 512 times -cos is 256 (quirk T4).
        aligns_on_text: Whether A has a step in batches of texts too (quirk T5).
        tests_on: Sets of the test (quirk T6).
        drops_in_test: Whether dropout is on in the test (quirk T6).
        decay_passes: Passes, three of which are an epoch, after which the learning rate of f_theta is multiplied by 0.2
            (quirk T7); None: it is constant.
        prompt_of: How long a prompt is used: in one pass over all classes, or in one batch.
    """

    name: ModeName
    splits: Splits
    target: Literal["text", "set"]
    ground_truth_weight: float
    aligns_on_text: bool
    tests_on: Sets
    drops_in_test: bool
    decay_passes: int | None
    prompt_of: Literal["pass", "batch"]


PALAVRA: Final = TrainingMode(
    name="palavra",
    splits="palavra",
    target="text",
    ground_truth_weight=1.0,
    aligns_on_text=False,
    tests_on="text",
    drops_in_test=True,
    decay_passes=200,
    prompt_of="pass",
)
"""As upstream's code does, with all its quirks, so that numbers compare with published ones."""

PAPER: Final = TrainingMode(
    name="paper",
    splits="disjoint",
    target="set",
    ground_truth_weight=256.0,
    aligns_on_text=True,
    tests_on="image",
    drops_in_test=False,
    decay_passes=None,
    prompt_of="batch",
)
"""As the text of the paper says (arXiv 2204.01694, section 4 and appendix A)."""

MODES: Final[Mapping[str, TrainingMode]] = {mode.name: mode for mode in (PALAVRA, PAPER)}


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read prompts from a text file in UTF-8: one per line, with one `*`, and at the end that `*` or a blank.

    They are sorted, so that neither the training nor its passport depends on the order of the lines. Empty lines are
    skipped. Blanks at the end of a line are kept, because the last character of a prompt is cut off in the mode
    `palavra` (quirk T2).

    Raises:
        MissingInputError: The file does not exist.
        AnnotationError: It is too large, has no prompt, or lines that are none, each with its number.
        ArchiveError: It cannot be read.
    """
    if not path.is_file():
        raise MissingInputError(
            f"The file of prompts {path} does not exist.", advice="Correct or unset PERVL_TRAINING_PROMPTS."
        )
    if (size := path.stat().st_size) > _LARGEST:
        raise AnnotationError(
            f"The file of prompts {path} has {size:,} bytes, more than {_LARGEST:,}.",
            advice="Set PERVL_TRAINING_PROMPTS to a text file with one prompt per line.",
        )
    parts = list(read_lines(path))
    wrong = {number: reason for _, unreadable in parts for number, reason, _ in unreadable.iter_rows()}
    prompts = {number: text for lines, _ in parts for number, text in lines.iter_rows() if text.strip()}
    for number, text in prompts.items():
        if text.count("*") != 1:
            wrong[number] = f"{text.count('*')} * instead of one"
        elif text[-1] not in "* ":
            wrong[number] = "it ends neither in * nor in a blank, so its last letter would be cut off"
    if wrong or not prompts:
        raise AnnotationError(
            f"The file of prompts {path} has {count_of(len(prompts), 'line')} with text, and {len(wrong):,} unusable.",
            details=list_some([f"line {number}: {wrong[number]}" for number in sorted(wrong)]),
            advice="Write one prompt per line, with one *, e.g. `This is a photo of a *`, or with a blank at its end.",
        )
    found = sorted(prompts.values())
    return PROMPTS if found == sorted(PROMPTS) else tuple(found)
