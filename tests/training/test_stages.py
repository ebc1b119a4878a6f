"""Each stage learns on a toy, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel

from generator.protocol import Variant
from training import transformer as transformer_stage
from training import vae as vae_stage
from training.calibrate import printed_ratios
from training.captions import Motion
from training.clips import WINDOW, Clip, Phrase, encode, load_clips, save_clip
from training.code import LOG_VARIANCE, fit_code, write_code
from training.optimizing import Muon, Optimizers, curve, load_state, orthogonal, save_state
from training.text import TextEncoders
from training.transformer import cut, lesson, loss_of
from training.vae import CONFIG, INNER, Autoencoder, crop, set_taps

TOY_TRANSFORMER = transformer_stage.CONFIG | {"num_attention_heads": 2, "num_single_layers": 1}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def make_clip(side: int = 4, motion: Motion = Motion.LEFT) -> Clip:
    latents = torch.randn(1, 16, 3 * WINDOW + 1, side, side)
    frame = np.zeros((8 * side, 8 * side, 3), np.uint8)
    return Clip(motion=motion, frame=frame, start=latents[:, :, :1], latents=latents[:, :, 1:])


def test_muon_steps_are_orthogonal_and_as_large_as_adams() -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(24, 60)))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    weight = torch.zeros(24, 60, requires_grad=True)
    weight.grad = torch.randn(24, 60)
    Muon([weight], lr=1.0).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)


def test_the_rate_warms_up_holds_and_falls() -> None:
    rates = [curve(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 40)
    assert rates[40:600] == [1.0] * 560
    assert rates[-1] == pytest.approx(0.03, abs=0.01)
    assert rates[600:] == sorted(rates[600:], reverse=True)


def coded_vae() -> AutoencoderKLHunyuanVideo:
    vae = AutoencoderKLHunyuanVideo(**CONFIG).eval()
    smooth = torch.nn.functional.interpolate(torch.rand(60, 3, 8, 8) * 2 - 1, size=(32, 32))
    write_code(vae, fit_code(smooth + 0.1 * torch.randn(60, 3, 32, 32), INNER))
    return vae


def test_the_code_is_linear_whitened_and_a_point() -> None:
    frames = torch.nn.functional.interpolate(torch.rand(80, 3, 8, 8) * 2 - 1, size=(32, 32))
    frames = frames + 0.1 * torch.randn(80, 3, 32, 32)
    code, vae = fit_code(frames, INNER), AutoencoderKLHunyuanVideo(**CONFIG).eval()
    write_code(vae, code)
    with torch.no_grad():
        small = torch.nn.functional.conv2d(frames, code.inner, code.inner_mean, stride=4)
        true = torch.nn.functional.conv2d(small, code.outer, code.outer_mean, stride=2)
        posterior = vae.encode(frames[:4].unsqueeze(2)).latent_dist
    assert float(true.square().mean()) == pytest.approx(1, rel=0.05)
    assert torch.allclose(true.mean((0, 2, 3)), torch.zeros(16), atol=0.02)
    seen = torch.corrcoef(true.transpose(0, 1).flatten(1))
    assert float((seen - torch.eye(16)).abs().max()) < 0.02
    assert torch.allclose(posterior.mode()[:, :, 0], true[:4], atol=0.05, rtol=0.01)
    assert float(posterior.logvar.max()) <= LOG_VARIANCE


def test_the_code_reads_only_its_own_frame() -> None:
    vae = coded_vae()
    clip = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        last = vae.encode(clip).latent_dist.mode()[:, :, 1]
        alone = vae.encode(clip[:, :, 4:]).latent_dist.mode()[:, :, 0]
    assert torch.allclose(last, alone, atol=0.05)


def test_the_decoder_learns_and_survives_a_kill(tmp_path) -> None:
    rng = np.random.default_rng(0)
    picture = np.full((64, 64, 3), (200, 90, 40), np.uint8)
    video = torch.stack([crop(picture, 32, rng) for _ in range(2)]).unsqueeze(2)

    def step(model: Autoencoder, optimizers: Optimizers) -> float:
        loss = model.loss(video, noise=0.0)
        loss.backward()
        optimizers.step(1.0)
        return loss.item()

    start = coded_vae()

    def fresh() -> tuple[Autoencoder, Optimizers]:
        model = Autoencoder(copy.deepcopy(start))
        return model, Optimizers(model.vae.decoder, 4e-3, 2e-3, vae_stage.EDGE)

    model, optimizers = fresh()
    encoder = copy.deepcopy(start.encoder.state_dict())
    losses = [step(model, optimizers) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(w, encoder[n]) for n, w in model.vae.encoder.state_dict().items())
    save_state(tmp_path / "s", model=model.state_dict(), optimizers=optimizers.state_dict(), step=6)
    other, others = fresh()
    state = load_state(tmp_path / "s")
    assert state is not None
    assert state["step"] == 6
    other.load_state_dict(state["model"])
    others.load_state_dict(state["optimizers"])
    assert step(model, optimizers) == step(other, others)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_a_kill_before_the_last_weights_are_written_leaves_them_to_be_written(
    tmp_path, monkeypatch
) -> None:
    """A state of the last step means that nothing is left to do."""
    coded_vae().save_pretrained(tmp_path / "code")
    frames = torch.rand(1, 3, 1, 16, 16)
    monkeypatch.setattr(vae_stage, "Pictures", lambda _: None)
    monkeypatch.setattr(vae_stage, "_batch", lambda *_: frames)
    monkeypatch.setattr(vae_stage, "measure", lambda _: (0.0, 0.0))
    monkeypatch.setattr(vae_stage, "contact_sheet", lambda *_: None)
    arguments = tmp_path / "vae", tmp_path / "code", tmp_path
    with monkeypatch.context() as killed:
        killed.setattr(AutoencoderKLHunyuanVideo, "save_pretrained", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vae_stage.train(*arguments, steps=1)
    made = vae_stage.train(*arguments, steps=1)
    AutoencoderKLHunyuanVideo.from_pretrained(made)


def test_set_taps_change_no_single_frame_and_fade_between_latents() -> None:
    model = Autoencoder(AutoencoderKLHunyuanVideo(**CONFIG)).eval()
    still = torch.rand(1, 3, 1, 32, 32)
    with torch.no_grad():
        before = model(still)
        set_taps(model)
        assert torch.allclose(model(still), before, atol=1e-4)
        latents = torch.randn(1, 16, 1, 4, 4).expand(-1, -1, 3, -1, -1).clone()
        changed = latents.clone()
        changed[:, :, 1] += 1
        # The norms look at all frames; without them a frame depends on its two latents alone.
        for module in model.vae.decoder.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x
        difference = (model.decode(latents) - model.decode(changed)).abs().amax((0, 1, 3, 4))
    # Latent 1 is frame 4: frames 1 to 4 fade towards it, 5 to 7 away from it.
    assert (difference[1:8] > 0).all()
    assert not difference[[0, 8]].any()


def test_text_encoders_learn_a_caption_apart_from_another() -> None:
    model = TextEncoders(vocabulary=40)
    ids = torch.randint(3, 40, (2, 100))
    short = torch.tensor([[0, 5, 6, 1] + [1] * 73, [0, 7, 8, 1] + [1] * 73])
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    clip = {"input_ids": short, "attention_mask": torch.ones_like(short)}
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        llama, pooled = model(tokens, clip)
        labels = torch.tensor([0, 1])
        loss = sum(torch.nn.functional.cross_entropy(x, labels) for x in (llama, pooled))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("variant", "number", "target", "nearest"),
    [
        (Variant.I2V, 0, 2, None),
        (Variant.I2V, 1, 1, 2 * WINDOW),
        (Variant.I2V, 2, 0, WINDOW),
        (Variant.F1, 0, 0, -1),
        (Variant.F1, 2, 2, 2 * WINDOW - 1),
    ],
)
def test_a_lesson_is_the_section_that_sampling_asks_for(variant, number, target, nearest) -> None:
    clip = make_clip()
    what = lesson(clip, variant, 3, number)
    assert torch.equal(what.target, clip.latents[:, :, target * WINDOW : (target + 1) * WINDOW])
    beside = what.context.latents_clean[:, :, 1:]
    if nearest is None:
        assert not beside.any()
    else:
        expected = clip.start if nearest < 0 else clip.latents[:, :, nearest : nearest + 1]
        assert torch.equal(beside, expected)
    assert torch.equal(what.context.latents_clean[:, :, :1], clip.start)


def test_a_spoiled_history_never_spoils_start_or_target() -> None:
    clip = make_clip()
    for seed in range(8):
        what = lesson(clip, Variant.F1, 2, 1, np.random.default_rng(seed))
        assert torch.equal(what.context.latents_clean[:, :, :1], clip.start)
        assert torch.equal(what.target, clip.latents[:, :, WINDOW : 2 * WINDOW])


def test_cuts_are_even_and_leave_zooms_their_centre() -> None:
    clip = make_clip(16, Motion.ZOOM_IN)
    cuts = [cut(clip, np.random.default_rng(seed)) for seed in range(12)]
    sizes = {c.start.shape[-1] for c in cuts}
    assert sizes == {12, 16}
    for small in (c for c in cuts if c.start.shape[-1] == 12):
        assert torch.equal(small.start, clip.start[..., 2:14, 2:14])
        assert small.frame.shape == (96, 96, 3)


def test_the_transformer_learns_a_section() -> None:
    model = HunyuanVideoFramepackTransformer3DModel(**TOY_TRANSFORMER)
    optimizers = Optimizers(model, 3e-3, 1.5e-3, transformer_stage.EDGE)
    clip = make_clip()
    clip.latents.copy_(clip.start.expand_as(clip.latents))
    phrase = Phrase(prompt_embeds=torch.randn(1, 5, 64), pooled_projections=torch.randn(1, 64))
    losses = []
    for _ in range(14):
        what = lesson(clip, Variant.F1, 2, 1)
        loss = loss_of(model, what, phrase, torch.randn(1, 9, 48), np.random.default_rng(3))
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_what_magcache_prints_is_read() -> None:
    printed = "\n[MagCache] Calibration Complete. Copy:\n[1.0, 1.5]\n\n[MagCache] …\n[1.0, 0.5]\n"
    assert printed_ratios(printed) == [[1.0, 1.5], [1.0, 0.5]]


def test_clips_keep_their_numbers_on_disk(tmp_path) -> None:
    vae = coded_vae()
    clip = encode(vae, torch.rand(28, 3, 32, 48) * 2 - 1, Motion.UP)
    assert clip.latents.shape == (1, 16, 3 * WINDOW, 4, 6)
    save_clip(tmp_path / "00000.safetensors", clip)
    (read,) = load_clips(tmp_path)
    assert read.motion is Motion.UP
    assert np.array_equal(read.frame, clip.frame)
    assert torch.allclose(read.latents, clip.latents, atol=2e-2, rtol=2e-3)
    with pytest.raises(FileNotFoundError, match="training clips"):
        load_clips(tmp_path / "nothing")
