from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import nn

from sightline.errors import TrainingStopped
from training.batch import Batch
from training.watching import EXPLORER_NAME, HeldOut, Watch, WatchSettings, read_log, read_trace
from training.watching.watch import canary_period, trace_period

NUM, SIDE, LENGTH = 32, 16, 8
QUIET = WatchSettings(tensorboard="off")


@dataclass(frozen=True)
class Line:
    step: int
    epoch: int
    loss: float


@dataclass(frozen=True)
class Loss:
    total: torch.Tensor
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


def small_clip(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=CLIPVisionCfg(image_size=SIDE, patch_size=8, layers=2, width=32, head_width=16, patch_dropout=0.25),
        text_cfg=CLIPTextCfg(context_length=LENGTH, vocab_size=64, layers=2, width=32, heads=2),
    )
    return model


def some_pairs(num: int = NUM, seed: int = 0) -> HeldOut:
    """Random pictures, each with a caption of random words of its own."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num, SIDE, SIDE, 3), np.uint8)
    tokens = rng.integers(1, 63, (num, LENGTH))
    tokens[:, -1] = 63
    return HeldOut(pixels, None, tokens, tuple(f"caption {i}" for i in range(num)))


def encoder(model: Any) -> Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]:
    def encode(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.pixels is not None
        pixels = torch.from_numpy(batch.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        images = model.encode_image(pixels, normalize=True)
        return images, model.encode_text(torch.from_numpy(batch.tokens), normalize=True)

    return encode


def info_nce(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = scale * images @ texts.T
    own = torch.arange(len(images))
    return (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2


def only_attract(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (1 - (images * texts).sum(dim=1)).mean()


def run(
    folder: Path,
    *,
    model: Any = None,
    settings: WatchSettings = QUIET,
    num_steps: int = 60,
    rate: float = 1e-3,
    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = info_nce,
    held_out: HeldOut | None = None,
    warn: Callable[[str], None] | None = None,
    watched: bool = True,
    start: int = 0,
    before: Callable[[Any, int], None] | None = None,
) -> Any:
    """Train the small model for a while as the loop does, watched."""
    model = model or small_clip()
    data, encode = some_pairs(), encoder(model)
    model.train()
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    folder.mkdir(exist_ok=True)
    with Watch(
        settings,
        folder,
        num_steps=num_steps,
        steps_per_epoch=10,
        done=start,
        held_out=held_out,
        encode=encode if held_out else None,
        warn=warn,
    ) as watch:
        if watched and start == 0:
            watch.begin(model)
        for step in range(start + 1, num_steps + 1):
            if before is not None:
                before(model, step)
            torch.manual_seed(step)
            rows = np.arange(NUM)
            images, texts = encode(Batch(step, 0, rows, data.pixels, None, data.tokens))
            total = loss(images, texts, model.logit_scale.exp())
            adam.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            if watched:
                watch.observe(step, images, texts, Loss(total, {"contrastive": total.detach()}), model)
            adam.step()
            if watched:
                watch.record(Line(step, (step - 1) // 10, total.item()), model)
                if step % 20 == 0:
                    watch.saved(step)
        if watched:
            watch.finish()
    return model


def test_every_step_is_a_line_with_everything_that_was_seen(tmp_path: Path) -> None:
    run(tmp_path, num_steps=12)
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == list(range(1, 13))
    every_step = {"step", "epoch", "loss", "loss_contrastive"}
    norms = {"gradient_norm_image", "gradient_norm_text", "gradient_norm_scalars"}
    vectors = {"image_spread", "text_effective_rank", "modality_gap", "matched_cosine", "unmatched_cosine"}
    for line in log:
        assert every_step | norms <= set(line)
        assert (vectors <= set(line)) == (line["step"] in (1, 5, 10))
        assert not any(name.startswith("canary") for name in line)


def test_the_canary_sings_each_epoch_and_at_the_end(tmp_path: Path) -> None:
    run(tmp_path, num_steps=25, held_out=some_pairs(20, seed=9))
    sung = [line["step"] for line in read_log(tmp_path) if "canary_text_to_image_recall_at_1" in line]
    assert sung == [10, 20, 25]


def test_trace_and_explorer_are_written(tmp_path: Path) -> None:
    run(tmp_path, num_steps=30, held_out=some_pairs(20, seed=9), settings=QUIET.model_copy(update={"trace_pairs": 8}))
    trace = read_trace(tmp_path / "trace.jsonl")
    assert len(trace.captions) == len(trace.thumbnails) == len(trace.moments[0].images) == 8
    assert [moment.step for moment in trace.moments][:3] == [0, 2, 4]
    assert trace.moments[-1].step == 30
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert trace.moments[0].loss is None
    assert trace.moments[1].loss == pytest.approx(sum(losses[:2]) / 2, abs=1e-4)
    assert (tmp_path / EXPLORER_NAME).read_text().startswith("<!doctype html>")
    assert not (tmp_path / "trace.vectors.npy").exists()


def test_a_watched_run_gives_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", num_steps=12, watched=False).state_dict()
    watched = run(tmp_path / "watched", num_steps=12, held_out=some_pairs(70, seed=9)).state_dict()
    assert all(torch.equal(tensor, watched[name]) for name, tensor in alone.items())


def test_a_pair_alone_gives_neither_canary_nor_trace(tmp_path: Path) -> None:
    run(tmp_path, num_steps=3, held_out=some_pairs(1))
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_forgetting_run_is_warned_of(tmp_path: Path) -> None:
    said: list[str] = []

    def forget(model: Any, step: int) -> None:
        if step == 20:
            with torch.no_grad():
                model.text_projection.copy_(torch.randn_like(model.text_projection))

    run(tmp_path, num_steps=20, rate=3e-3, held_out=some_pairs(), warn=said.append, before=forget)
    assert len(said) == 1
    assert "retrieval on held-out pairs has fallen" in said[0]


def poison(part: str) -> Callable[[Any, int], None]:
    def set_nan(model: Any, step: int) -> None:
        if step == 25:
            with torch.no_grad():
                getattr(model, part).fill_(math.nan)

    return set_nan


def test_nan_names_the_step_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingStopped, match=r"at step 25: the loss is not a number .* is that of step 20\)"
    ) as raised:
        run(tmp_path, before=poison("logit_scale"))
    assert raised.value.details["step"] == 25
    assert "lower learning_rate" in raised.value.message
    assert read_log(tmp_path)[-1]["step"] == 24


def test_gradients_that_are_no_numbers_name_their_tower(tmp_path: Path) -> None:
    model: Any = small_clip()
    with Watch(QUIET, tmp_path, num_steps=2, steps_per_epoch=1) as watch:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model.visual.conv1.weight.grad[0] = math.inf
        with pytest.raises(TrainingStopped, match=r"the gradients of image are not a number \(there is no checkpoint"):
            watch.observe(1, None, None, Loss(torch.tensor(1.0)), model)


def stopped_at(error: pytest.ExceptionInfo[TrainingStopped]) -> int:
    step = error.value.details["step"]
    assert isinstance(step, int)
    return step


def test_a_huge_learning_rate_is_stopped_within_fifty_steps(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="have collapsed") as raised:
        run(tmp_path, rate=1.0)
    assert stopped_at(raised) <= 50
    assert "lower learning_rate" in raised.value.message


def test_a_loss_without_negatives_is_stopped_within_fifty_steps(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="have collapsed") as raised:
        run(tmp_path, loss=only_attract, rate=3e-3)
    assert stopped_at(raised) <= 50
    assert "make sure that the objective has negatives" in raised.value.message


def test_a_dead_tower_is_stopped_within_fifty_steps(tmp_path: Path) -> None:
    model: Any = small_clip()
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.zero_()
    with pytest.raises(TrainingStopped, match="the image vectors have collapsed to one point") as raised:
        run(tmp_path, model=model)
    assert stopped_at(raised) <= 50
    assert "the image tower gets no gradient" in raised.value.message


def test_a_collapse_in_the_middle_is_stopped_within_fifty_steps_of_it(tmp_path: Path) -> None:
    step = [0]

    def count(model: Any, now: int) -> None:
        step[0] = now

    def cause(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if step[0] < 30:
            return info_nce(images, texts, scale)
        return (1 - images @ texts.T).mean()  # a mask that calls every pair a positive

    with pytest.raises(TrainingStopped, match="have collapsed") as raised:
        run(tmp_path, num_steps=100, loss=cause, rate=3e-3, before=count)
    assert 30 < stopped_at(raised) <= 80
    assert "since step 5" in raised.value.message
    assert "the last checkpoint, of step 60, is from after that" in raised.value.message


def test_a_temperature_fixed_at_nonsense_is_stopped_within_fifty_steps(tmp_path: Path) -> None:
    model: Any = small_clip()
    model.logit_scale.requires_grad_(False).fill_(math.log(1e4))
    with pytest.raises(TrainingStopped, match="have collapsed to one point") as raised:
        run(tmp_path, model=model, rate=1e-2)
    assert stopped_at(raised) <= 50
    assert "the logit scale is fixed at 1e+04" in raised.value.message


@pytest.mark.parametrize("rate", [1e-4, 5e-3])
def test_a_healthy_run_is_never_stopped(tmp_path: Path, rate: float) -> None:
    run(tmp_path, num_steps=70, rate=rate)
    assert len(read_log(tmp_path)) == 70


def test_a_collapse_can_be_a_warning(tmp_path: Path) -> None:
    said: list[str] = []
    settings = QUIET.model_copy(update={"stop_on_collapse": False})
    run(tmp_path, settings=settings, loss=only_attract, rate=3e-3, warn=said.append)
    assert len(said) == 1
    assert "have collapsed" in said[0]


def test_a_resumed_watch_goes_on(tmp_path: Path) -> None:
    held_out = some_pairs(20, seed=9)
    run(tmp_path, num_steps=8, held_out=held_out)
    model = small_clip()
    with Watch(
        QUIET, tmp_path, num_steps=40, steps_per_epoch=10, done=4, held_out=held_out, encode=encoder(model)
    ) as watch:
        watch.load_state_dict(watch.state_dict())
        watch.record(Line(5, 0, 1.0), model)
        with pytest.raises(TrainingStopped, match="the last good checkpoint is that of step 4"):
            watch.observe(6, None, None, Loss(torch.tensor(math.nan)), model)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5]


def test_another_process_watches_without_writing(tmp_path: Path) -> None:
    model = small_clip()
    pairs = some_pairs()
    with Watch(
        QUIET, tmp_path, num_steps=2, steps_per_epoch=1, held_out=pairs, encode=encoder(model), writes=False
    ) as watch:
        assert watch.begin(model) == {}
        with pytest.raises(TrainingStopped, match="not a number"):
            watch.observe(1, None, None, Loss(torch.tensor(math.nan)), model)
        watch.record(Line(1, 0, 1.0), model)
        watch.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_steps", "steps_per_epoch", "canary", "trace"),
    [
        (300, 15, 15, 15),  # twenty epochs
        (300, 78, 78, 13),  # four epochs: more moments than epochs
        (10_000, 3, 201, 209),  # thousands of tiny epochs
        (100_000, 50_000, 50_000, 4167),
        (5, 100, 100, 1),
    ],
)
def test_epochs_too_short_or_too_long_are_evened_out(
    num_steps: int, steps_per_epoch: int, canary: int, trace: int
) -> None:
    assert canary_period(num_steps, steps_per_epoch) == canary
    assert trace_period(num_steps, steps_per_epoch) == trace
