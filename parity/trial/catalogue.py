"""Every known defect, over every component."""

from typing import Final

from parity.trial.defect import Defect, require_unique
from parity.trial.defects_decoding import DECODING_DEFECTS
from parity.trial.defects_guidance import GUIDANCE_DEFECTS
from parity.trial.defects_latents import LATENT_DEFECTS
from parity.trial.defects_pictures import PICTURE_DEFECTS
from parity.trial.defects_precision import PRECISION_DEFECTS
from parity.trial.defects_serving import SERVING_DEFECTS
from parity.trial.defects_text import TEXT_DEFECTS
from parity.trial.defects_transformer import TRANSFORMER_DEFECTS

CATALOGUE: Final[tuple[Defect, ...]] = require_unique(
    (
        *TEXT_DEFECTS,
        *PICTURE_DEFECTS,
        *LATENT_DEFECTS,
        *TRANSFORMER_DEFECTS,
        *PRECISION_DEFECTS,
        *GUIDANCE_DEFECTS,
        *SERVING_DEFECTS,
        *DECODING_DEFECTS,
    )
)
