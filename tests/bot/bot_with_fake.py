"""The bot as a process of its own, with the fake generator: `bot_with_fake.py CONFIG WORD ...`."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from bot.app import run_bot
from bot.config import load_config, read_token

FAKE = Path(__file__).resolve().parent.parent / "fake_generator.py"

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    config = load_config(Path(sys.argv[1]), os.environ)
    command = [sys.executable, str(FAKE), *sys.argv[2:]]
    asyncio.run(run_bot(config, read_token(os.environ), command=command))
