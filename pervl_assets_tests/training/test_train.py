import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pervl_assets.clip.encode_images import clear_chunks
from pervl_assets.core.claims import Claim
from pervl_assets.core.errors import PervlError, WriteError
from pervl_assets.core.files import Lock, hash_bytes
from pervl_assets.training import modes, train
from pervl_assets.training.modes import PALAVRA, PROMPTS
from pervl_assets.training.set_encoder import ALIGNMENT, TrainedSetEncoder
from pervl_assets_tests.training.kit import make_encoder, make_training


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture
def run(encoder, tmp_path):
    """Train in a folder; by default a new one."""

    def call(
        mode="palavra",
        folder="1",
        on_progress=lambda curves: None,
        previous=None,
        prompts=PROMPTS,
        claim=None,
        **changes,
    ) -> TrainedSetEncoder:
        data, passport = make_training(mode, **changes)
        work = tmp_path / f"{folder}.partial"
        return train.train_set_encoder(
            data, passport, lambda: encoder, work, previous, prompts, on_progress, claim=claim
        )

    return call


@pytest.fixture(scope="module")
def undisturbed(encoder, tmp_path_factory):
    (data, passport), saved = make_training("palavra"), []
    work = tmp_path_factory.mktemp("training") / "1.partial"
    trained = train.train_set_encoder(data, passport, lambda: encoder, work, on_saved=saved.append)
    assert {*saved} == {*work.iterdir()}
    assert saved.count(work / "checkpoint.safetensors") == passport.epochs
    return trained


@pytest.mark.parametrize("mode", ["palavra", "paper"])
def test_losses_fall(run, mode, monkeypatch):
    monkeypatch.setattr(train, "_RATE", 1e-2)
    curves = run(mode, epochs=16).curves
    assert curves["epoch"].to_list() == [epoch for epoch in range(1, 17) for _ in range(3)]
    for phase in ("image", "text"):
        for loss in ("cycle", "ground_truth") if mode == "palavra" else ("ground_truth",):  # whose weight is 256
            values = curves.filter(phase=phase)[loss]
            assert values.tail(5).mean() < values.head(5).mean(), (phase, loss)
    alignment = curves.filter(phase="image")["alignment"]
    assert alignment.tail(5).mean() < alignment.head(5).mean()
    assert curves.filter(pl.col("phase") != "image")["alignment"].null_count() == 32
    assert curves["accuracy"].is_between(0, 1).all()


def test_seeds_and_modes_give_other_weights_and_the_same_seed_the_same(run, undisturbed):
    hashes = {
        run(folder=str(number), **changes).hash() for number, changes in enumerate(({"seed": 2}, {"mode": "paper"}))
    }
    assert run(folder="again").hash() == undisturbed.hash()
    assert len({*hashes, undisturbed.hash()}) == 3


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_a_training_that_is_killed_goes_on_with_the_same_weights(run, undisturbed, epoch, monkeypatch, caplog):
    """Killed in the epoch after so many were saved, and once more while the next one is being saved."""
    passes, run_pass, move = [], train.Trainer._run_pass, train.move_synced

    def die(trainer, number, phase):
        passes.append(number)
        if number == 3 * epoch + 1:
            raise KilledError
        return run_pass(trainer, number, phase)

    def lose(source, target):
        if target.name == "checkpoint.safetensors":
            raise KilledError
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_run_pass", die)
        if epoch < 3:
            with pytest.raises(KilledError):
                run()
    with monkeypatch.context() as patch:
        patch.setattr(train, "move_synced", lose)
        if epoch < 3:
            with pytest.raises(KilledError):
                run()
    seen = []
    with caplog.at_level("INFO"):
        trained = run(on_progress=lambda curves: seen.append(curves.height // 3))
    assert trained.hash() == undisturbed.hash()
    assert seen == [*range(epoch % 3 + 1, 4)]
    assert caplog.text.count(f"Resumed after epoch {epoch} of 3.") == (0 < epoch < 3)


def test_another_process_goes_on_after_a_killed_one_with_the_same_weights(run, undisturbed, tmp_path):
    work = str(tmp_path / "1.partial")
    code = f"""
import os, signal
from pathlib import Path
from pervl_assets.training.train import train_set_encoder
from pervl_assets_tests.training.kit import make_encoder, make_training

def kill(curves):
    os.kill(os.getpid(), signal.SIGKILL)

train_set_encoder(*make_training("palavra"), make_encoder, Path({work!r}), on_progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    seen = []
    assert run(on_progress=lambda curves: seen.append(curves.height // 3)).hash() == undisturbed.hash()
    assert seen == [2, 3]


def test_a_full_disk_is_an_error_and_the_epochs_before_it_stay(run, undisturbed, monkeypatch):
    write = Path.write_bytes

    def fill(path, data):
        saved.append("checkpoint" in path.name)
        if saved[-1] and sum(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    saved = list[bool]()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        with pytest.raises(WriteError, match="checkpoint"):
            run()
    seen = []
    assert run(on_progress=lambda curves: seen.append(curves.height // 3)).hash() == undisturbed.hash()
    assert seen == [2, 3]


def test_a_saved_epoch_of_other_settings_is_dropped_and_a_damaged_one_too(run, undisturbed, tmp_path, caplog):
    run(seed=2)
    assert run().hash() == undisturbed.hash()
    assert "other data, model or settings" in caplog.text
    file = tmp_path / "1.partial/checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert run().hash() == undisturbed.hash()
    assert caplog.text.count("Dropped the saved epoch") == 2
    clear_chunks(tmp_path / "1.partial")
    assert not file.parent.exists()


def test_a_stored_one_is_used_again_without_a_model(run, undisturbed, tmp_path):
    data, passport = make_training("palavra")
    assert train.train_set_encoder(data, passport, pytest.fail, tmp_path / "x.partial", undisturbed) is undisturbed
    assert (
        run(previous=replace(undisturbed, passport=replace(undisturbed.passport, code="0"))).hash()
        == undisturbed.hash()
    )


def test_two_runs_do_not_train_the_same_at_once(run, tmp_path):
    with Lock(tmp_path / "1.partial.lock", "training 1"), pytest.raises(WriteError, match="Another run is training 1"):
        run()


def test_a_training_that_was_given_up_stops_after_its_epoch(run, undisturbed, tmp_path):
    request, seen = tmp_path / "1.partial.lock-request", []
    with pytest.raises(PervlError, match="goes on with training 1"):
        run(claim=Claim("run/0", bool), on_progress=lambda _: request.write_text("run/0"))
    trained = run(claim=Claim("run/1", bool), on_progress=lambda curves: seen.append(curves.height // 3))
    assert (trained.hash(), seen) == (undisturbed.hash(), [2, 3])


def test_a_loss_that_is_not_finite_is_an_error(run, monkeypatch):
    monkeypatch.setattr(train, "compute_cycle_loss", lambda queries, targets, temperature: queries.sum() * np.nan)
    with pytest.raises(PervlError, match=r"The loss of epoch 1 \(image\) of repetition 1 is not finite"):
        run()


# ---- quirks


@pytest.fixture
def steps(run, monkeypatch):
    """Train an epoch in a mode; returns each pass: prompts, targets' texts, learning rate, changed parameters."""

    def call(mode, number=0):
        seen, step = [], train.Trainer._step

        def watch(trainer, drawn, batch, prompt, generator):
            before = {name: one.detach().clone() for name, one in trainer._weights.items()}
            result = step(trainer, drawn, batch, prompt, generator)
            changed = {name for name, one in trainer._weights.items() if not torch.equal(one, before[name])}
            rate = trainer._inverter.param_groups[0]["lr"]
            seen.append((drawn.kind, prompt, rate, bool(changed & {*ALIGNMENT}), bool(changed - {*ALIGNMENT})))
            return result

        monkeypatch.setattr(train.Trainer, "_step", watch)
        monkeypatch.setattr(train, "_BATCH", 2)
        run(mode, epochs=1)
        return seen

    return call


def test_palavra_draws_a_prompt_per_pass_and_tests_on_texts_and_never_steps_a_on_texts(steps):
    seen = steps("palavra")
    assert [kind for kind, *_ in seen] == ["image"] * 3 + ["text"] * 6
    assert [len({prompt for _, prompt, *_ in seen[start : start + 3]}) for start in (0, 3, 6)] == [1, 1, 1]
    assert seen[-1][1] == "This is a photo of a *"
    assert [step[3] for step in seen] == [False] * 9
    assert [step[4] for step in seen] == [True] * 6 + [False] * 3


def test_the_paper_draws_a_prompt_per_batch_and_tests_on_images_and_steps_a_on_texts(steps):
    seen = steps("paper")
    assert [kind for kind, *_ in seen] == ["image"] * 3 + ["text"] * 3 + ["image"] * 3
    assert len({prompt for _, prompt, *_ in seen[:6]}) > 2
    assert [step[3] for step in seen] == [False] * 3 + [True] * 3 + [False] * 3


def test_the_learning_rate_falls_after_passes_not_epochs(steps, monkeypatch):
    monkeypatch.setitem(modes.MODES, "palavra", replace(PALAVRA, decay_passes=2))
    rates = [rate for _, _, rate, *_ in steps("palavra")]
    assert rates == pytest.approx([1e-4] * 6 + [2e-5] * 3)


def test_targets_keep_the_star_of_a_prompt_that_does_not_end_in_it(run, encoder, monkeypatch):
    texts, encode = [], encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda some, *rest: (texts.extend(some), encode(some, *rest))[1])
    trained = run(epochs=1, prompts=("We see an * in this photo ",))
    assert trained.passport.prompts_sha256 == hash_bytes(b"We see an * in this photo ")
    assert "We see an * in this photodog" in texts
    assert "This is a photo of a dog" in texts
