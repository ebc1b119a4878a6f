"""The generator's own command line: serve, generate, check, models, plan, probe.

Decides: options and their texts. Every range comes from the protocol. Torch is imported only by the
verbs that need it, after the arguments were understood.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from generator.errors import GeneratorError
from generator.models_cli import add_models_verb
from generator.plan_cli import add_plan_verb, show_plan
from generator.protocol import (
    Attention,
    JobRequest,
    Mode,
    RequestError,
    Resampling,
    StepCacheKind,
    Storage,
    Variant,
    job_request,
    limits,
)

EXIT_WRONG = 2


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    use_huge_pages()
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        status: int = arguments.verb(arguments)
        return status
    except (RequestError, GeneratorError) as error:
        print(f"framepack-bot: {error}", file=sys.stderr)
        return EXIT_WRONG if isinstance(error, RequestError) else 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("framepack-bot: The disk is full; free some space.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("framepack-bot: stopped", file=sys.stderr)
        return 130


def use_huge_pages() -> None:
    """Have torch ask for huge pages; to be called before its first tensor, which imports make.

    Every tensor above a MiB is new memory (see `machine.give_back_freed_memory`), and to get it in
    small pages costs a VAE on the CPU as much as half of its computing. Only Linux knows the word.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m generator", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--verbose", action="store_true", help="say more on stderr")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="make videos for a parent process over stdin and stdout")
    serve.set_defaults(verb=_serve)
    _add_machine_options(serve)
    serve.add_argument(
        "--resume-every-s",
        type=float,
        default=30.0,
        help="seconds between two resume points; 0 keeps every step",
    )
    serve.add_argument(
        "--idle-unload-s",
        type=float,
        default=300.0,
        help="seconds without work until VRAM and pinned RAM are given back; 0 never does",
    )
    serve.add_argument(
        "--lossy-fallback",
        default="no",
        choices=["no", "yes"],
        help="when nothing else fits: smaller VAE tiles, 8-bit weights",
    )
    make = verbs.add_parser("generate", help="make one video", prog="framepack-bot generate")
    make.set_defaults(verb=_generate)
    _add_machine_options(make)
    _add_request_options(make)
    check = verbs.add_parser("check", help="all that serve looks at before it takes jobs, in words")
    check.set_defaults(verb=_check)
    _add_machine_options(check)
    models = verbs.add_parser("models", help="model folders", prog="framepack-bot models")
    models.set_defaults(verb=lambda arguments: arguments.action(arguments))
    add_models_verb(models)
    plan = verbs.add_parser(
        "plan", help="what a video will need on a machine", prog="framepack-bot plan"
    )
    plan.set_defaults(verb=show_plan)
    add_plan_verb(plan)
    probe = verbs.add_parser("probe", help="what this machine has, as JSON")
    probe.set_defaults(verb=_probe)
    probe.add_argument("--words", action="store_true", help="one line about torch instead")
    return parser


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", help="demo, tiny, or a model folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument(
        "--placement",
        default="auto",
        choices=[str(m) for m in Mode],
        help="where weights lie; auto measures",
    )
    parser.add_argument(
        "--storage",
        default="native",
        choices=[str(s) for s in Storage],
        help="bits of the transformer's blocks; fp8 needs half the memory and changes pictures",
    )
    parser.add_argument(
        "--attention",
        default="auto",
        choices=[str(a) for a in Attention],
        help="attention kernel; all but auto and native need their package",
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="torch.compile for the transformer's blocks: minutes at first, then faster steps; "
        "changes the last digits",
    )
    parser.add_argument(
        "--preserve-vram-gib", type=float, default=0.0, help="GiB kept free on the GPU"
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="where encoded prompts and pictures are kept"
    )


_NUMBERS: dict[str, tuple[type, str]] = {
    "seconds": (float, "length of the video"),
    "steps": (int, "sampling steps a section"),
    "resolution": (int, "side of a square of as many pixels; by default the model's own"),
    "latent_window_size": (int, "latent frames a section"),
    "guidance_scale": (float, "distilled guidance"),
    "true_cfg_scale": (float, "classifier-free guidance against the negative prompt; 1 is off"),
    "guidance_rescale": (float, "keeps true CFG from burning out colours"),
    "motion_bias": (float, "flow shift; by default the resolution decides"),
    "consistency_boost": (float, "more steps for structure"),
    "end_strength": (float, "how much the end picture counts"),
    "fps": (int, "frames a second of the file"),
    "crf": (int, "H.264 quality, 0 best"),
}


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    defaults = JobRequest(prompt="-", seed=0)
    parser.add_argument("--image", type=Path, required=True, help="the picture to animate")
    parser.add_argument("--prompt", required=True, help="what should move")
    parser.add_argument("--out", type=Path, required=True, help="the MP4 to write")
    parser.add_argument("--variant", default="i2v", choices=[str(v) for v in Variant])
    parser.add_argument("--negative-prompt", default="", help="what should not be seen (true CFG)")
    parser.add_argument("--seed", type=int, help="0 or more; without it a random one")
    for name, (kind, meaning) in _NUMBERS.items():
        low, high = limits(name)
        default = getattr(defaults, name)
        shown = "" if default is None else f"; default {default:g}"
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=kind,
            default=default,
            help=f"{meaning} ({low:g} to {high:g}{shown})",
        )
    parser.add_argument("--resampling", default="nearest", choices=[str(r) for r in Resampling])
    parser.add_argument("--end-image", type=Path, help="picture of the last frame (i2v)")
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        default=[],
        help="additional picture, repeatable; in i2v it reaches mostly the video's end, in f1 its "
        "beginning",
    )
    caches = parser.add_mutually_exclusive_group()
    for option in ("--teacache", "--magcache", "--first-block-cache"):
        caches.add_argument(option, type=float, metavar="THRESHOLD", help="step cache; 0 is off")
    parser.add_argument("--latents-out", type=Path, help="safetensors file for all latents")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar on stderr")


def _serve(arguments: argparse.Namespace) -> int:
    from generator.worker import serve

    return serve(arguments)


def _generate(arguments: argparse.Namespace) -> int:
    from generator.once import generate_once

    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    kind, threshold = _step_cache(arguments)
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in _NUMBERS}
    request = job_request(
        **settings,
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        variant=arguments.variant,
        seed=seed,
        image=str(arguments.image.absolute()),
        end_image=arguments.end_image and str(arguments.end_image.absolute()),
        references=tuple(str(path.absolute()) for path in arguments.reference),
        step_cache=kind,
        step_cache_threshold=threshold,
        resampling=arguments.resampling,
    )
    return generate_once(request, arguments)


def _step_cache(arguments: argparse.Namespace) -> tuple[StepCacheKind, float]:
    for kind, threshold in (
        (StepCacheKind.TEACACHE, arguments.teacache),
        (StepCacheKind.MAGCACHE, arguments.magcache),
        (StepCacheKind.FIRST_BLOCK, arguments.first_block_cache),
    ):
        if threshold:
            return kind, threshold
    return StepCacheKind.NONE, 0.0


def _check(arguments: argparse.Namespace) -> int:
    from generator.inspection import inspect_weights
    from generator.workshop import open_workshop

    placement = open_workshop(arguments).placement
    inspect_weights(placement.model)
    print(f"{placement.why}; attention {placement.attention}")
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from generator.probe import probe, probe_in_words

    print(probe_in_words() if arguments.words else probe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
