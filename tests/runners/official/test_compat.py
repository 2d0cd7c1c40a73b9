"""The stand-ins for CUDA calls, the audio extension and the Gemma constant leave no trace."""

import importlib
import sys

import pytest
import torch

from runners.forge.presets import full_gemma, preset_named
from runners.official.compat import gemma_constant, prepare_imports, without_cuda_calls

CONFIGURATOR = "ltx_core.text_encoders.gemma.encoders.encoder_configurator"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the real calls are made")
def test_cuda_calls_do_nothing_inside_and_are_back_outside() -> None:
    before = torch.cuda.synchronize, torch.cuda.empty_cache
    with pytest.raises(ZeroDivisionError), without_cuda_calls():
        torch.cuda.synchronize()
        torch.cuda.synchronize(torch.device("cpu"))
        torch.cuda.empty_cache()
        raise ZeroDivisionError
    assert (torch.cuda.synchronize, torch.cuda.empty_cache) == before


def test_torchaudio_can_be_imported_and_knows_it_has_no_extension() -> None:
    prepare_imports()
    import torchaudio

    assert torchaudio.transforms.MelSpectrogram is not None
    if not torch.cuda.is_available():
        assert sys.modules["torchaudio._extension"]._IS_TORCHAUDIO_EXT_AVAILABLE is False


def test_the_gemma_constant_is_replaced_inside_and_restored_after_an_error() -> None:
    module = importlib.import_module(CONFIGURATOR)
    official = module.GEMMA3_CONFIG_FOR_LTX
    tiny = preset_named("tiny").gemma
    with pytest.raises(ZeroDivisionError), gemma_constant(tiny):
        inside = module.GEMMA3_CONFIG_FOR_LTX
        assert inside.text_config.hidden_size == tiny["text_config"]["hidden_size"] != official.text_config.hidden_size
        assert inside.to_dict()["text_config"]["num_hidden_layers"] == tiny["text_config"]["num_hidden_layers"]
        raise ZeroDivisionError
    assert module.GEMMA3_CONFIG_FOR_LTX is official


def test_the_gemma_constant_is_left_alone_for_the_gemma_it_describes() -> None:
    module = importlib.import_module(CONFIGURATOR)
    official = module.GEMMA3_CONFIG_FOR_LTX
    with gemma_constant(full_gemma()):
        assert module.GEMMA3_CONFIG_FOR_LTX is official
