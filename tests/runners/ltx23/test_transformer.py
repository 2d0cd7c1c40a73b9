"""The native transformer against ltx-core 1.0.0, bit for bit, and what can be worked out without it."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.transformer import ModalityInput, Skips, Transformer, denoised_of_velocity
from runners.ltx23.transformer_config import TransformerConfig
from runners.releases import ReleaseBehaviours
from runners.tap import listening

VIDEO_TOKENS, AUDIO_TOKENS, TEXT_TOKENS = 12, 5, 7
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def section(**changes: object) -> dict[str, Any]:
    """A transformer section in which every size differs from every other."""
    return {
        "dropout": 0.0,
        "attention_bias": True,
        "num_vector_embeds": None,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "use_linear_projection": False,
        "only_cross_attention": False,
        "cross_attention_norm": True,
        "double_self_attention": False,
        "upcast_attention": False,
        "standardization_norm": "rms_norm",
        "norm_elementwise_affine": False,
        "qk_norm": "rms_norm",
        "positional_embedding_type": "rope",
        "use_audio_video_cross_attention": True,
        "share_ff": False,
        "av_cross_ada_norm": True,
        "use_middle_indices_grid": True,
        "caption_proj_before_connector": True,
        "caption_projection_first_linear": False,
        "caption_proj_input_norm": False,
        "caption_projection_second_linear": False,
        "cross_attention_adaln": True,
        "num_attention_heads": 2,
        "attention_head_dim": 20,
        "in_channels": 9,
        "out_channels": 9,
        "num_layers": 3,
        "cross_attention_dim": 40,
        "norm_eps": 1e-5,
        "positional_embedding_max_pos": [19, 2000, 1000],
        "audio_num_attention_heads": 3,
        "audio_attention_head_dim": 8,
        "audio_in_channels": 6,
        "audio_out_channels": 6,
        "audio_cross_attention_dim": 24,
        "audio_positional_embedding_max_pos": [21],
        "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 700,
        "rope_type": "split",
        "frequencies_precision": "float64",
        "apply_gated_attention": True,
    } | changes


def pair(dtype: torch.dtype, reference: ReleaseBehaviours | None = None, **changes: object) -> tuple[Any, Transformer]:
    """The official X0 model and ours with the same random weights."""
    from ltx_core.model.transformer import LTXModelConfigurator, X0Model

    config = {"transformer": section(**changes)}
    generator = torch.Generator().manual_seed(3)
    official = LTXModelConfigurator.from_config(config)
    for parameter in official.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.2).to(dtype)
    native = Transformer(TransformerConfig.from_dict(config), reference or ReleaseBehaviours()).to(dtype)
    native.load_state_dict(official.state_dict(), strict=True)
    return X0Model(official), native


def positions(axes: int, tokens: int) -> Tensor:
    starts = torch.rand(1, axes, tokens, generator=torch.Generator().manual_seed(axes)) * 8
    return torch.stack([starts, starts + 0.3], dim=-1)


def inputs(dtype: torch.dtype, *, masked: bool = True) -> tuple[ModalityInput, ModalityInput]:
    generator = torch.Generator().manual_seed(5)

    def modality(tokens: int, channels: int, width: int, sigma: float) -> ModalityInput:
        mask = torch.rand(1, tokens, 1, generator=generator) if masked else torch.ones(1, tokens, 1)
        return ModalityInput(
            latent=torch.randn(1, tokens, channels, generator=generator).to(dtype),
            sigma=torch.tensor(sigma),
            timesteps=mask * sigma,
            context=torch.randn(1, TEXT_TOKENS, width, generator=generator).to(dtype),
        )

    return modality(VIDEO_TOKENS, 9, 40, 0.7), modality(AUDIO_TOKENS, 6, 24, 0.4)


def run_official(model: Any, video: ModalityInput, audio: ModalityInput, skips: Skips) -> tuple[Tensor, Tensor]:
    from ltx_core.guidance.perturbations import (
        BatchedPerturbationConfig,
        Perturbation,
        PerturbationConfig,
        PerturbationType,
    )
    from ltx_core.model.transformer import Modality

    dtype = video.latent.dtype
    wanted = [
        Perturbation(PerturbationType.SKIP_VIDEO_SELF_ATTN, sorted(skips.video_self_attention)),
        Perturbation(PerturbationType.SKIP_AUDIO_SELF_ATTN, sorted(skips.audio_self_attention)),
    ]
    wanted += [Perturbation(PerturbationType.SKIP_A2V_CROSS_ATTN, None)] if skips.a2v else []
    wanted += [Perturbation(PerturbationType.SKIP_V2A_CROSS_ATTN, None)] if skips.v2a else []
    with torch.no_grad():
        video_out, audio_out = model(
            Modality(positions=positions(3, VIDEO_TOKENS).to(dtype), **fields_of(video)),
            Modality(positions=positions(1, AUDIO_TOKENS), **fields_of(audio)),
            BatchedPerturbationConfig([PerturbationConfig(wanted)]),
        )
    return video_out, audio_out


def fields_of(modality: ModalityInput) -> dict[str, Any]:
    return {field.name: getattr(modality, field.name) for field in dataclasses.fields(modality)}


def run_native(
    model: Transformer,
    video: ModalityInput,
    audio: ModalityInput,
    skips: Skips,
    *,
    share: bool = False,
    disable_v2a_cross_attn: bool = False,
) -> tuple[Tensor, Tensor]:
    dtype = video.latent.dtype
    with torch.no_grad():
        # 1.0.0 rounds video's positions to the model's dtype and leaves audio's in float32.
        rotary = model.rotary_tables(positions(3, VIDEO_TOKENS).to(dtype), positions(1, AUDIO_TOKENS), dtype)
        denoised: tuple[Tensor, Tensor] = model(
            video,
            audio,
            rotary,
            skips,
            model.modulation(video, audio) if share else None,
            disable_v2a_cross_attn=disable_v2a_cross_attn,
        )
    return denoised


def assert_same_bits(native: tuple[Tensor, Tensor], official: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(native, official, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.isfinite(theirs).all()
        assert torch.equal(ours, theirs)


@DTYPES
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_type": "interleaved"},
        {"frequencies_precision": False},
        {"apply_gated_attention": False},
        {"positional_embedding_theta": 500.0, "num_layers": 1},
    ],
    ids=str,
)
def test_a_pass_has_the_bits_of_the_official_model(dtype: torch.dtype, changes: dict[str, Any]) -> None:
    official, native = pair(dtype, **changes)
    video, audio = inputs(dtype)
    assert_same_bits(run_native(native, video, audio, Skips()), run_official(official, video, audio, Skips()))


@DTYPES
@pytest.mark.parametrize(
    "skips",
    [
        Skips(video_self_attention=frozenset({1}), audio_self_attention=frozenset({1, 2})),
        Skips(video_self_attention=frozenset({0, 28})),
        Skips(a2v=True, v2a=True),
        Skips(v2a=True),
        Skips(a2v=True, audio_self_attention=frozenset({0})),
    ],
    ids=str,
)
def test_a_guidance_pass_has_the_bits_of_the_official_model(dtype: torch.dtype, skips: Skips) -> None:
    official, native = pair(dtype)
    video, audio = inputs(dtype)
    expected = run_official(official, video, audio, skips)
    assert_same_bits(run_native(native, video, audio, skips), expected)
    whole = run_official(official, video, audio, Skips())
    assert not all(torch.equal(a, b) for a, b in zip(expected, whole, strict=True))  # the skip does something


@DTYPES
@pytest.mark.parametrize(
    "skips", [Skips(), Skips(a2v=True, v2a=True), Skips(audio_self_attention=frozenset({0}))], ids=["none", "av", "stg"]
)
def test_the_flag_takes_v2a_out_of_every_block_whatever_else_a_pass_leaves_out(
    dtype: torch.dtype, skips: Skips
) -> None:
    official, native = pair(dtype)
    video, audio = inputs(dtype)
    expected = run_official(official, video, audio, dataclasses.replace(skips, v2a=True))
    assert_same_bits(run_native(native, video, audio, skips, disable_v2a_cross_attn=True), expected)


@DTYPES
@pytest.mark.parametrize(("video_on", "audio_on"), [(False, True), (True, False), (False, False)])
def test_a_disabled_modality_has_the_bits_of_the_official_model(
    dtype: torch.dtype, video_on: bool, audio_on: bool
) -> None:
    official, native = pair(dtype)
    video, audio = inputs(dtype)
    video, audio = dataclasses.replace(video, enabled=video_on), dataclasses.replace(audio, enabled=audio_on)
    assert_same_bits(run_native(native, video, audio, Skips()), run_official(official, video, audio, Skips()))


@DTYPES
def test_modulation_that_passes_share_changes_no_bit(dtype: torch.dtype) -> None:
    _, native = pair(dtype)
    video, audio = inputs(dtype)
    alone = run_native(native, video, audio, Skips())
    assert_same_bits(run_native(native, video, audio, Skips(), share=True), alone)


def test_per_token_cross_modal_timesteps_differ_from_1_0_0_only_under_a_mask() -> None:
    """With one noise level for all tokens of both streams, the stream's own level and the other's are the same."""
    _, native = pair(torch.float32)
    _, later = pair(torch.float32, ReleaseBehaviours(cross_timestep_per_token=True))
    video, audio = inputs(torch.float32, masked=False)
    audio = dataclasses.replace(audio, sigma=video.sigma, timesteps=torch.full_like(audio.timesteps, 0.7))
    unmasked = run_native(native, video, audio, Skips())
    for ours, theirs in zip(run_native(later, video, audio, Skips()), unmasked, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    mask = torch.ones(1, VIDEO_TOKENS, 1)
    mask[:, 0] = 0.0
    video = dataclasses.replace(video, timesteps=mask * video.sigma)
    masked, masked_later = run_native(native, video, audio, Skips()), run_native(later, video, audio, Skips())
    assert (masked[0] - masked_later[0]).abs().max() > 1e-3
    assert (masked[1] - masked_later[1]).abs().max() > 1e-3


def test_attention_is_called_with_the_layouts_of_the_official_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that a GPU runs depends on strides and on whether a mask is given, even where values do not."""
    calls: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **rest: Any) -> Tensor:
        calls.append([(x.shape, x.stride(), x.dtype) for x in (q, k, v, attn_mask) if x is not None])
        return attend(q, k, v, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    official, native = pair(torch.bfloat16)
    video, audio = inputs(torch.bfloat16)
    run_official(official, video, audio, Skips())
    expected = list(calls)
    assert len(expected) == 3 * 6
    calls.clear()
    run_native(native, video, audio, Skips())
    assert calls == expected


def test_parameter_names_and_shapes_of_the_22b_model_are_the_official_ones() -> None:
    from ltx_core.model.transformer import LTXModelConfigurator

    sizes = {
        "num_attention_heads": 32,
        "attention_head_dim": 128,
        "in_channels": 128,
        "out_channels": 128,
        "num_layers": 48,
        "cross_attention_dim": 4096,
        "audio_num_attention_heads": 32,
        "audio_attention_head_dim": 64,
        "audio_in_channels": 128,
        "audio_out_channels": 128,
        "audio_cross_attention_dim": 2048,
    }
    config = {"transformer": section(**sizes)}
    with torch.device("meta"):
        official = LTXModelConfigurator.from_config(config)
        native = Transformer(TransformerConfig.from_dict(config), ReleaseBehaviours())
    expected = {name: value.shape for name, value in official.state_dict().items()}
    assert len(expected) == 4186
    assert {name: value.shape for name, value in native.state_dict().items()} == expected


def test_taps_name_each_branch_that_ran_and_both_streams_after_each_block() -> None:
    _, native = pair(torch.float32, num_layers=2)
    video, audio = inputs(torch.float32)
    heard: dict[str, Tensor] = {}
    with listening(lambda name, tensor: heard.update({name: tensor.clone()})):
        run_native(native, video, audio, Skips(v2a=True))
    branches = {
        "video": ("self_attn", "text_attn", "av_attn", "ff", "out"),
        "audio": ("self_attn", "text_attn", "ff", "out"),  # V2A was skipped
    }
    expected = {f"block/{b:02d}/{stream}/{x}" for b in range(2) for stream, xs in branches.items() for x in xs}
    assert set(heard) == expected
    assert heard["block/01/video/av_attn"].shape == (1, VIDEO_TOKENS, 40)
    assert heard["block/01/audio/out"].shape == (1, AUDIO_TOKENS, 24)


def test_taps_have_the_bits_of_the_official_modules_outputs() -> None:
    official, native = pair(torch.bfloat16)
    video, audio = inputs(torch.bfloat16)
    names = {
        "attn1": "video/self_attn",
        "attn2": "video/text_attn",
        "audio_to_video_attn": "video/av_attn",
        "ff": "video/ff",
        "audio_attn1": "audio/self_attn",
        "audio_attn2": "audio/text_attn",
        "video_to_audio_attn": "audio/av_attn",
        "audio_ff": "audio/ff",
    }
    expected: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda _module, _arguments, output: expected.update({name: output})

    def record_block(index: int) -> Any:
        def hook(_module: Any, _arguments: Any, output: Any) -> None:
            expected[f"block/{index:02d}/video/out"], expected[f"block/{index:02d}/audio/out"] = (x.x for x in output)

        return hook

    for index, block in enumerate(official.velocity_model.transformer_blocks):
        block.register_forward_hook(record_block(index))
        for module, tail in names.items():
            getattr(block, module).register_forward_hook(record(f"block/{index:02d}/{tail}"))
    run_official(official, video, audio, Skips())
    heard: dict[str, Tensor] = {}
    with listening(lambda name, tensor: heard.update({name: tensor.clone()})):
        run_native(native, video, audio, Skips())
    assert set(heard) == set(expected)
    assert [name for name in heard if not torch.equal(heard[name], expected[name])] == []


def test_denoised_is_latent_less_each_tokens_sigma_times_velocity() -> None:
    latent = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    velocity = torch.tensor([[[2.0, 4.0], [6.0, 8.0], [1.0, 1.0]]])
    sigmas = torch.tensor([[[0.5], [0.25], [0.0]]])
    expected = torch.tensor([[[0.0, 0.0], [1.5, 2.0], [5.0, 6.0]]])
    assert torch.equal(denoised_of_velocity(latent, velocity, sigmas), expected)
    # In bfloat16 0.3 would be 0.30078125 and 100 (1 - 0.3) would round to 70.0; float32 keeps 0.29 apart from it.
    in_bf16 = torch.full((1, 1, 1), 100.0, dtype=torch.bfloat16)
    assert denoised_of_velocity(in_bf16, in_bf16, torch.full((1, 1, 1), 0.2996)).item() == 70.0
    assert denoised_of_velocity(in_bf16, in_bf16, torch.full((1, 1, 1), 0.2974)).item() == 70.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": torch.ones(1, VIDEO_TOKENS)}, r"timesteps must be .*got \(1, 12\)"),
        ({"timesteps": torch.ones(1, VIDEO_TOKENS + 1, 1)}, r"got \(1, 13, 1\)"),
        ({"sigma": torch.ones(2)}, r"sigma must be .*got \(2,\)"),
    ],
    ids=["axes", "tokens", "sigma"],
)
def test_inputs_that_do_not_belong_together_are_refused(change: dict[str, Tensor], message: str) -> None:
    video, _ = inputs(torch.float32)
    with pytest.raises(ShapeError, match=message):
        dataclasses.replace(video, **change)  # type: ignore[arg-type]


def test_a_context_of_the_other_stream_is_refused() -> None:
    _, native = pair(torch.float32, num_layers=1)
    video, audio = inputs(torch.float32)
    with pytest.raises(ShapeError, match=r"video context must be \(B, S, 40\).*got \(1, 7, 24\)"):
        run_native(native, dataclasses.replace(video, context=audio.context), audio, Skips())
