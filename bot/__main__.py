"""The command line: `framepack-bot` and `python -m bot`.

Decides: verbs, exit codes, what goes to stdout and stderr. Refuses to know: everything else; the
generator's verbs are handed on word for word to `python -m generator`, whose exit code is kept.
Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

RELAYED = {
    "generate": "make one video without Discord",
    "models": "check or make model folders",
    "plan": "show how a video is cut into sections, and what it costs",
}
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns 0 when it did its work, 1 with a sentence on stderr when not."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in RELAYED:
        return relay(words)
    arguments = _parser().parse_args(words)
    try:
        status: int = arguments.verb(arguments)
        return status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="framepack-bot", description="A Discord bot that makes pictures move."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add(verbs, "run", _run, "run the bot").add_argument(
        "--verbose", action="store_true", help="log what every part does"
    )
    _add_demo(verbs)
    _add_play(verbs)
    _add(verbs, "queue", _queue, "list the jobs in the database, also while the bot runs")
    backup = _add(verbs, "backup", _backup, "copy the database, also while the bot runs")
    backup.add_argument("file", type=Path, metavar="FILE", help="the copy; must not exist yet")
    _add(verbs, "doctor", _doctor, "check what the bot needs, and say what to do")
    for verb, meaning in RELAYED.items():
        verbs.add_parser(verb, help=meaning, add_help=False)
    return parser


def _add_demo(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    meaning = "the whole bot once, against a Discord on this machine"
    demo = verbs.add_parser("demo", help=meaning, description=meaning)
    demo.set_defaults(verb=_demo)
    suppress = argparse.SUPPRESS  # what is not given is the demo's to decide
    demo.add_argument("--image", type=Path, default=suppress, help="the picture to animate")
    demo.add_argument("--prompt", default=suppress, help="what should move")
    demo.add_argument("--model", default=suppress, help="demo, tiny, or a model folder")
    demo.add_argument("--out-dir", type=Path, default=suppress, help="where the MP4 is kept")
    demo.add_argument("--seconds", type=float, default=suppress, help="length of the video")
    demo.add_argument("--steps", type=int, default=suppress, help="sampling steps a section")
    demo.add_argument("--resolution", type=int, default=suppress, help="size of the video")


def _add_play(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    meaning = "the whole bot in a browser, on a Discord on this machine"
    play = verbs.add_parser("play", help=meaning, description=meaning)
    play.set_defaults(verb=_play)
    play.add_argument("--config", type=Path, metavar="FILE", help="settings to try; else none")
    play.add_argument("--port", type=int, help="where the page is (otherwise 8722, or a free one)")
    play.add_argument("--model", help="demo, tiny, or a model folder")
    play.add_argument("--no-browser", action="store_true", help="open no browser window")


def _add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: object, text: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(verb=run)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings; config.toml here without it"
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from bot.app import StartError, run_until_signal
    from bot.config import ConfigError, load_config, read_token

    _start_logging(verbose=arguments.verbose)
    try:
        config = load_config(arguments.config, os.environ)
        run_until_signal(config, read_token(os.environ))
    except (ConfigError, StartError) as error:
        return _complain(error)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from bot.playground.demo import run_demo

    options = {name: value for name, value in vars(arguments).items() if name != "verb"}
    return run_demo(**options)


def _play(arguments: argparse.Namespace) -> int:
    from bot.playground.play import Play, run_play

    return run_play(
        Play(
            port=arguments.port,
            model=arguments.model,
            config=arguments.config,
            browser=not arguments.no_browser,
        )
    )


def _queue(arguments: argparse.Namespace) -> int:
    from bot.config import ConfigError, load_config
    from bot.tables import queue_table
    from storage.jobs import StorageError, read_jobs, utc_now

    try:
        config = load_config(arguments.config, os.environ)
        jobs = read_jobs(config.storage.data_dir / "bot.sqlite3")
    except (ConfigError, StorageError) as error:
        return _complain(error)
    print(queue_table(jobs, utc_now()))
    return 0


def _backup(arguments: argparse.Namespace) -> int:
    from bot.config import ConfigError, load_config
    from storage.reading import back_up
    from storage.schema import StorageError

    try:
        config = load_config(arguments.config, os.environ)
        jobs = back_up(config.storage.data_dir / "bot.sqlite3", arguments.file)
    except (ConfigError, StorageError) as error:
        return _complain(error)
    print(f"{arguments.file}: {jobs} jobs. Pictures and videos lie in the data folder's jobs/.")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from bot.doctor import examine

    return examine(arguments.config, os.environ, sys.stdout)


def relay(words: list[str]) -> int:
    """Run a verb of the generator and return its exit code; what interrupts us interrupts it.

    In a terminal the child shares our process group: one of its own is not in the foreground, and
    the system stops what asks a question from there. Ctrl-C then reaches both without our help.
    """
    command = [sys.executable, "-m", "generator", *words]
    shares = sys.platform == "win32" or os.isatty(0)
    with subprocess.Popen(command, process_group=None if shares else 0) as child:

        def pass_on(number: int, frame: FrameType | None) -> None:
            if sys.platform != "win32" and not (shares and number == signal.SIGINT):
                child.send_signal(number)

        before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _start_logging(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    if not verbose:
        for name in ("discord", "aiohttp"):
            logging.getLogger(name).setLevel(logging.WARNING)


def _complain(error: Exception) -> int:
    print(f"framepack-bot: {error}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
