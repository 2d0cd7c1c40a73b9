"""The native text features and connectors against ltx-core 1.0.0, bit for bit, and their own contracts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.connectors import Connector, TextConnectors
from runners.ltx23.text_features import TextFeatures
from runners.ltx23.transformer_config import ConnectorConfig, RotaryConfig, TextConnectorsConfig

HIDDEN_WIDTH, HIDDEN_STATES, TOKENS = 10, 3, 256
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def configuration(*, kind: str = "split", precision: object = "float64", gated: bool = True) -> dict[str, Any]:
    """The configuration that the official configurators read; the transformer's own part is left out here."""
    return {
        "caption_proj_before_connector": True,
        "caption_projection_first_linear": False,
        "caption_proj_input_norm": False,
        "caption_projection_second_linear": False,
        "num_attention_heads": 2,
        "attention_head_dim": 20,
        "audio_num_attention_heads": 3,
        "audio_attention_head_dim": 8,
        "connector_num_attention_heads": 4,
        "connector_attention_head_dim": 10,
        "connector_num_layers": 2,
        "audio_connector_num_attention_heads": 6,
        "audio_connector_attention_head_dim": 4,
        "audio_connector_num_layers": 1,
        "connector_positional_embedding_max_pos": [400],
        "rope_type": kind,
        "frequencies_precision": precision,
        "connector_apply_gated_attention": gated,
    }


def config_of(section: dict[str, Any]) -> TextConnectorsConfig:
    rotary = RotaryConfig(
        kind=section["rope_type"], precision="float64" if section["frequencies_precision"] == "float64" else "float32"
    )
    gated = section["connector_apply_gated_attention"]
    return TextConnectorsConfig(
        hidden_width=HIDDEN_WIDTH,
        num_hidden_states=HIDDEN_STATES,
        video=ConnectorConfig(
            heads=4, head_width=10, num_layers=2, max_position=400, rotary=rotary, gated_attention=gated
        ),
        audio=ConnectorConfig(
            heads=6, head_width=4, num_layers=1, max_position=400, rotary=rotary, gated_attention=gated
        ),
    )


def pair(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, section: dict[str, Any]) -> tuple[Any, TextConnectors]:
    """The official processor and ours with the same random weights, carried over by the checkpoint's names."""
    from ltx_core.text_encoders.gemma.encoders import encoder_configurator

    tiny = SimpleNamespace(text_config=SimpleNamespace(hidden_size=HIDDEN_WIDTH, num_hidden_layers=HIDDEN_STATES - 1))
    monkeypatch.setattr(encoder_configurator, "GEMMA3_CONFIG_FOR_LTX", tiny)
    official = encoder_configurator.EmbeddingsProcessorConfigurator.from_config({"transformer": section})
    generator = torch.Generator().manual_seed(3)
    for parameter in official.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.2).to(dtype)
    checkpoint = {}
    for prefix, of_checkpoint in {
        "feature_extractor.": "text_embedding_projection.",
        "video_connector.": "model.diffusion_model.video_embeddings_connector.",
        "audio_connector.": "model.diffusion_model.audio_embeddings_connector.",
    }.items():
        for key, value in official.state_dict().items():
            if key.startswith(prefix):
                checkpoint[of_checkpoint + key.removeprefix(prefix)] = value
                # The official loader must agree that this is the checkpoint's name.
                ops = encoder_configurator.EMBEDDINGS_PROCESSOR_KEY_OPS
                assert ops.apply_to_key(of_checkpoint + key.removeprefix(prefix)) == key
    native = TextConnectors(config_of(section)).to(dtype)
    state = {
        prefix + key.removeprefix(of_checkpoint): value
        for prefix, of_checkpoint in TextConnectors.CHECKPOINT_PREFIXES.items()
        for key, value in checkpoint.items()
        if key.startswith(of_checkpoint)
    }
    assert len(state) == len(checkpoint)
    native.load_state_dict(state, strict=True)
    return official, native


def prompt(dtype: torch.dtype, real: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Hidden states and mask of a prompt with `real` tokens behind its padding."""
    generator = torch.Generator().manual_seed(real)
    states = tuple(
        (torch.randn(1, TOKENS, HIDDEN_WIDTH, generator=generator) * 10**layer).to(dtype)
        for layer in range(HIDDEN_STATES)
    )
    mask = torch.zeros(1, TOKENS, dtype=torch.int64)
    mask[:, TOKENS - real :] = 1
    return states, mask


@DTYPES
@pytest.mark.parametrize("real", [0, 17, 150, TOKENS])
def test_context_has_the_bits_of_the_official_processor(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, real: int
) -> None:
    official, native = pair(monkeypatch, dtype, configuration())
    states, mask = prompt(dtype, real)
    with torch.no_grad():
        expected, ours = official.process_hidden_states(states, mask), native(states, mask)
    assert expected.attention_mask.all()  # the official output mask calls every token real: we return none
    for native_context, official_context in zip(ours, expected[:2], strict=True):
        assert native_context.dtype == official_context.dtype
        assert torch.isfinite(official_context).all()
        assert torch.equal(native_context, official_context)


@DTYPES
@pytest.mark.parametrize("value", [0.0, -1000.0, torch.inf, torch.nan], ids=str)
def test_no_bit_of_the_context_depends_on_what_stands_in_the_padding(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, value: float
) -> None:
    official, native = pair(monkeypatch, dtype, configuration())
    states, mask = prompt(dtype, 17)
    others = tuple(torch.where(mask[..., None] == 0, torch.tensor(value, dtype=dtype), state) for state in states)
    with torch.no_grad():
        for contexts in (native, lambda *given: official.process_hidden_states(*given)[:2]):
            for plain, other in zip(contexts(states, mask), contexts(others, mask), strict=True):
                assert torch.equal(plain, other) and plain.isfinite().all()
        real = tuple(torch.where(mask[..., None] == 0, state, state + 1) for state in states)
        assert not torch.equal(native(states, mask)[0], native(real, mask)[0]), "of its tokens it depends on every one"


@DTYPES
@pytest.mark.parametrize(("kind", "precision", "gated"), [("interleaved", False, True), ("split", "float32", False)])
def test_other_configurations_have_the_official_bits(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, kind: str, precision: object, gated: bool
) -> None:
    official, native = pair(monkeypatch, dtype, configuration(kind=kind, precision=precision, gated=gated))
    states, mask = prompt(dtype, 21)
    with torch.no_grad():
        expected, ours = official.process_hidden_states(states, mask), native(states, mask)
    assert torch.equal(ours[0], expected.video_encoding)
    assert torch.equal(ours[1], expected.audio_encoding)


def test_attention_gets_the_official_mask_of_zeros_though_it_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU runs another kernel where there is a mask, so leaving the zeros out would change the bits there."""
    calls: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, **rest: Any) -> Tensor:
        assert not attn_mask.any()
        calls.append([(x.shape, x.stride(), x.dtype) for x in (q, k, v, attn_mask)])
        return attend(q, k, v, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    official, native = pair(monkeypatch, torch.bfloat16, configuration())
    states, mask = prompt(torch.bfloat16, 17)
    with torch.no_grad():
        official.process_hidden_states(states, mask)
        expected = list(calls)
        assert len(expected) == 2 + 1
        calls.clear()
        native(states, mask)
    assert calls == expected


def connector(num_registers: int) -> Connector:
    rotary = RotaryConfig(kind="split", precision="float64")
    config = ConnectorConfig(
        heads=1,
        head_width=2,
        num_layers=1,
        max_position=9,
        rotary=rotary,
        gated_attention=False,
        num_registers=num_registers,
    )
    return Connector(config)


def test_registers_take_the_places_that_real_tokens_leave() -> None:
    model = connector(num_registers=2)
    model.learnable_registers.data = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    features = torch.tensor([[[90.0, 90.0], [91.0, 91.0], [92.0, 92.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    is_real = torch.tensor([False, False, False, True, True, True])
    # Three real tokens first; then the registers, as tiled over the six places: 2nd, 1st, 2nd.
    expected = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [-3.0, -4.0], [-1.0, -2.0], [-3.0, -4.0]]]
    assert model.replace_padding(features, is_real).tolist() == expected


def test_features_are_rms_normed_per_token_and_state_and_zero_where_padded() -> None:
    section = configuration()
    config = config_of(section)
    model = TextFeatures(config)
    model.video_aggregate_embed = torch.nn.Linear(30, 40)
    weight = torch.zeros(40, 30)
    weight[0, 3] = 1.0  # channel 1 of hidden state 0: the state is the fast axis, 1 * 3 + 0
    model.video_aggregate_embed.weight.data, model.video_aggregate_embed.bias.data = weight, torch.full((40,), 0.25)
    states = tuple(torch.ones(1, 2, HIDDEN_WIDTH) for _ in range(HIDDEN_STATES))
    states[0][0, 1] = torch.tensor([4.0, 3.0, 0, 0, 0, 0, 0, 0, 0, 0])  # mean square 2.5
    video, _ = model(states, torch.tensor([[0, 1]]))
    # 3 / sqrt(2.5), rescaled by sqrt(40 / 10), and the bias; padding keeps the bias alone.
    torch.testing.assert_close(video[0, :, 0], torch.tensor([0.25, 2 * 3 / 2.5**0.5 + 0.25]))


def test_prompts_in_a_batch_and_lengths_that_registers_do_not_tile_are_refused() -> None:
    model = connector(num_registers=4)
    with pytest.raises(ShapeError, match="one prompt at a time"):
        model(torch.ones(2, 8, 2), torch.ones(2, 8))
    with pytest.raises(ShapeError, match="padded to 6 tokens; wanted a multiple of the 4"):
        model(torch.ones(1, 6, 2), torch.ones(1, 6))


def test_hidden_states_of_another_language_model_are_refused() -> None:
    model = TextFeatures(config_of(configuration()))
    mask = torch.ones(1, 4)
    with pytest.raises(ShapeError, match=r"Wanted 3 hidden states of 10 channels; got 2 of \[10\]"):
        model(tuple(torch.ones(1, 4, 10) for _ in range(2)), mask)
    with pytest.raises(ShapeError, match=r"got 3 of \[11\]"):
        model(tuple(torch.ones(1, 4, 11) for _ in range(3)), mask)
