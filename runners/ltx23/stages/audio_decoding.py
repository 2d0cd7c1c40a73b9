"""Audio decoding: the denoised latent to mel, mel to waveform."""

from runners.ltx23.audio_decoder import AudioDecoder, decode_audio
from runners.ltx23.bandwidth_extension import ExtendedVocoder
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.vocoder import Vocoder
from runners.tap import tap


class AudioDecodingStage:
    """Fills in `audio_waveform` and `sample_rate_hz`."""

    def __init__(self, decoder: AudioDecoder, vocoder: Vocoder | ExtendedVocoder) -> None:
        self.decoder = decoder
        self.vocoder = vocoder

    def forward(self, batch: Batch) -> Batch:
        """Decode to fp32 (C, N)."""
        latent = needed(batch.audio_latent, type(self).__name__, "audio_latent")
        with batch.config.autocast(batch.device):
            waveform, rate_hz = decode_audio(latent, self.decoder, self.vocoder)
        tap("decode/waveform", waveform)
        batch.audio_waveform, batch.sample_rate_hz = waveform, rate_hz
        return batch
