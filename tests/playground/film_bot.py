"""The bot as a process of its own with a film for a video: `film_bot.py CONFIG WORD ...`."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from bot import publisher
from bot.app import run_bot
from bot.config import load_config, read_token

GENERATOR = Path(__file__).resolve().parent / "film_generator.py"
EDIT_GAP_S = 0.4

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    publisher.EDIT_GAP_S = EDIT_GAP_S  # a test does not wait five seconds for each edit
    config = load_config(Path(sys.argv[1]), os.environ)
    command = [sys.executable, str(GENERATOR), *sys.argv[2:]]
    asyncio.run(run_bot(config, read_token(os.environ), command=command))
