"""The bot as a process of its own, with the real generator, which keeps its latents."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from bot.app import generator_of, run_bot
from bot.config import load_config, read_token

KEEPING = Path(__file__).resolve().parent.parent / "generator_keeping_latents.py"

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    config = load_config(Path(sys.argv[1]), os.environ)
    python, _, _, *words = generator_of(config)  # python -m generator serve ...
    command = [python, str(KEEPING), *words]
    asyncio.run(run_bot(config, read_token(os.environ), command=command))
