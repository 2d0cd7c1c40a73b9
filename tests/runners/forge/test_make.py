import importlib
import json
from pathlib import Path

import pytest
import torch

from runners.checksum import checksum64
from runners.errors import CheckpointError, ConfigError
from runners.forge import make
from runners.forge.inventory import model_inventory
from runners.forge.known import known_hash
from runners.forge.make import (
    forge,
    forged_hash,
    forged_recipe,
    is_forged,
    made_distilled,
    made_model,
    prequantized,
)
from runners.forge.presets import preset_named
from runners.forge.tensors import FP8, ScaledTensors
from runners.official.compat import gemma_constant, prepare_imports, without_cuda_calls
from runners.weights import WeightsFolder
from tests.conftest import shrink_to_micro

CPU = torch.device("cpu")


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_forges_write_the_same_bytes_and_another_seed_others(tiny_weights: Path, tmp_path: Path) -> None:
    first, again = files_below(tiny_weights), files_below(forge("tiny", 0, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []
    other = files_below(forge("tiny", 1, tmp_path / "other"))
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {name for name in first if name.endswith(".safetensors")}
    assert changed == {
        "ltx-2.3.safetensors",
        "ltx-2.3-distilled.safetensors",
        "ltx-2.3-distilled-lora.safetensors",
        "ltx-2.3-spatial-upscaler-x2.safetensors",
        "gemma/model.safetensors",
    }


def test_tiny_takes_at_most_70_megabytes(tiny_weights: Path) -> None:
    assert sum(map(len, files_below(tiny_weights).values())) <= 70e6  # of two checkpoints


def test_distillation_changes_the_transformer_alone() -> None:
    preset = preset_named("tiny")
    names = [
        "model.diffusion_model.proj_out.weight",
        "model.diffusion_model.video_embeddings_connector.learnable_registers",
    ]
    names += ["vae.decoder.conv_out.conv.weight", "text_embedding_projection.video_aggregate_embed.weight"]
    base, distilled = (made(preset, 0).read(names, CPU) for made in (made_model, made_distilled))
    assert [torch.equal(base[name], distilled[name]) for name in names] == [False, True, True, True]


def test_the_file_reads_back_with_its_metadata_and_the_hash_made_without_files(tiny_weights: Path) -> None:
    weights = WeightsFolder(tiny_weights)
    assert weights.config == preset_named("tiny").config
    assert weights.gemma_config == preset_named("tiny").gemma
    assert weights.model.metadata["model_version"] == "2.3.0-forged-tiny"
    assert json.loads(weights.model.metadata["forge"]) == {"preset": "tiny", "seed": 0, "spec": make.SPEC_VERSION}
    assert weights.hash == forged_hash("tiny", 0, CPU) == known_hash(forged_recipe("tiny", 0))
    assert weights.hash != forged_hash("tiny", 1, CPU)


def test_a_checkpoint_quantised_beforehand_has_scales_where_the_official_code_wants_them() -> None:
    prepare_imports()
    importlib.import_module("ltx_core.loader")  # the other imports this one halfway
    excluded: tuple[str, ...] = importlib.import_module("ltx_core.quantization.fp8_scaled_mm").EXCLUDED_LAYER_SUBSTRINGS
    preset = preset_named("small")
    preset.config["transformer"].update(
        num_layers=45,
        num_attention_heads=16,
        attention_head_dim=32,
        audio_num_attention_heads=16,
        audio_attention_head_dim=12,
    )
    plain = model_inventory(preset)
    made = ScaledTensors(plain, 0)
    transformer = "model.diffusion_model."
    linear = {
        name.removesuffix(".weight")
        for name, shape in plain.items()
        if name.startswith(f"{transformer}transformer_blocks.") and name.endswith(".weight") and len(shape) == 2
    }
    wanted = {name for name in linear if not any(part in name for part in excluded)}
    assert {name for name in made.shapes if made.dtype(name) == FP8} == {f"{name}.weight" for name in wanted}
    assert f"{transformer}transformer_blocks.42.ff.net.2" in wanted and len(wanted) % 42 == 0
    scales = {f"{name}.{kind}_scale": () for name in wanted for kind in ("weight", "input")}
    assert made.shapes == {**plain, **scales}
    assert {made.dtype(name) for name in scales} == {torch.float32}


def test_quantised_weights_and_their_scales_give_the_weights_back(scaled_weights: WeightsFolder) -> None:
    assert json.loads(scaled_weights.model.metadata["forge"])["quantization"] == "fp8_scaled_mm"
    assert is_forged(scaled_weights.folder)
    preset = preset_named("odd")
    shrink_to_micro(preset)
    layer = "model.diffusion_model.transformer_blocks.1.attn1.to_q"
    names = [f"{layer}.{part}" for part in ("weight", "weight_scale", "input_scale", "bias")]
    found = []
    for files, made in ((scaled_weights, made_model), (scaled_weights.of_pipeline("distilled"), made_distilled)):
        weight, scale, of_inputs, bias = files.model.read(names, CPU).values()
        exact = made(preset, 0).read([f"{layer}.weight"], CPU)[f"{layer}.weight"].float()
        assert weight.dtype == FP8 and scale.dtype == of_inputs.dtype == torch.float32 and bias.dtype == torch.bfloat16
        assert scale == exact.abs().max() / 448 and 4 / 448 < of_inputs < 12 / 448
        torch.testing.assert_close(weight.float() * scale, exact, rtol=2**-4, atol=float(scale) * 2**-9)
        found.append(weight.float())
    assert not torch.equal(*found)  # distillation has trained it
    heads = "model.diffusion_model.transformer_blocks.1.attn1.to_gate_logits"  # three of them, and CUDA wants sixteens
    assert f"{heads}.weight" in scaled_weights.model.shapes
    assert f"{heads}.weight_scale" not in scaled_weights.model.shapes


def test_a_quantisation_that_no_checkpoint_is_made_for_is_refused() -> None:
    assert (prequantized(None), prequantized("fp8_scaled_mm")) == (None, "fp8_scaled_mm")
    with pytest.raises(ConfigError, match="wanted fp8_scaled_mm"):
        prequantized("fp8_cast")


def test_a_subset_in_any_order_has_the_bits_of_the_whole() -> None:
    made = made_model(preset_named("tiny"), 0)
    names = ["vae.decoder.conv_out.conv.weight", "model.diffusion_model.proj_out.bias", "vocoder.mel_stft.mel_basis"]
    subset = made.read(names, CPU)
    assert list(subset) == names
    for name, x in made.read(list(made.shapes), CPU).items():
        assert name not in subset or checksum64(x) == checksum64(subset[name])
    with pytest.raises(CheckpointError, match="no surprise"):
        made.read(["surprise"], CPU)


def test_an_occupied_folder_is_left_alone_and_a_failed_forge_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine").touch()
    with pytest.raises(CheckpointError, match="not an empty folder"):
        forge("tiny", 0, occupied)

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(make, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        forge("tiny", 0, tmp_path / "new")
    with pytest.raises(ConfigError):
        forge("huge", 0, tmp_path / "huge")
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_the_official_loader_fills_every_parameter(tiny_weights: Path) -> None:
    pytest.importorskip("ltx_pipelines")
    prepare_imports()
    with without_cuda_calls(), gemma_constant(preset_named("tiny").gemma):
        from ltx_pipelines.utils.model_ledger import ModelLedger

        ledger = ModelLedger(
            dtype=torch.bfloat16,
            device=CPU,
            checkpoint_path=str(tiny_weights / "ltx-2.3.safetensors"),
            gemma_root_path=str(tiny_weights / "gemma"),
        )
        makers = (
            ledger.transformer,
            ledger.video_encoder,
            ledger.video_decoder,
            ledger.audio_decoder,
            ledger.vocoder,
            ledger.text_encoder,
            ledger.gemma_embeddings_processor,
        )
        for maker in makers:
            module = maker()
            unfilled = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
            assert unfilled == [], maker.__name__


@pytest.mark.gpu
def test_a_cuda_device_makes_the_same_checkpoint() -> None:
    assert forged_hash("tiny", 0, torch.device("cuda")) == forged_hash("tiny", 0, CPU)
