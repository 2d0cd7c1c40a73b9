"""The small files of a made Gemma folder: configuration, tokenizer and picture processor; weights come from make.py."""

import json
from pathlib import Path

from runners.forge.presets import Json
from runners.forge.tokenizer import write_tokenizer


def write_gemma_files(folder: Path, gemma: Json) -> None:
    """Write everything but the weights into an existing folder. Two calls write the same bytes.

    With weights beside them, the official loader and Hugging Face transformers take the folder for a Gemma 3. The
    tokenizer is the made one at every size, so that a `full` Gemma uses the first few hundred rows of its embedding.
    """
    vision = gemma["vision_config"]
    processor = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": gemma["mm_tokens_per_image"],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": vision["image_size"], "width": vision["image_size"]},
    }
    write_json(folder / "config.json", gemma)
    write_json(folder / "preprocessor_config.json", processor)
    # Official releases since 1.2.0 make the processor of this file and find the picture's part in the one above.
    also = {"image_seq_length": gemma["mm_tokens_per_image"], "processor_class": "Gemma3Processor"}
    write_json(folder / "processor_config.json", also)
    write_tokenizer(folder)


def write_json(path: Path, value: Json) -> None:
    """Write JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
