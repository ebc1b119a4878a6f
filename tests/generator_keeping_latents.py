"""The real generator, which also leaves `latents.safetensors` beside each video. For tests only."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator import pipeline
from generator.__main__ import main

generate = pipeline.generate


def generate_and_keep(
    job_id: str, request: Any, folder: Path, workshop: Any, **options: Any
) -> Any:
    """As `generate`."""
    latents = folder / "latents.safetensors"
    return generate(job_id, request, folder, workshop, latents_out=latents, **options)


if __name__ == "__main__":
    pipeline.generate = generate_and_keep
    sys.exit(main())
