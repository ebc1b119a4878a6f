"""An attention package that can not be used is told before a job is taken, or passed over."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch

from generator.attention import choose_attention
from generator.errors import ModelError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package of that name and version where Python finds it."""
    installed = []

    def put(name: str, version: str, text: str = "") -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text, "utf-8")
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)
        installed.append(name)

    yield put
    for name in installed:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("wanted", "package", "version", "needed"),
    [
        ("sage", "sageattention", "1.0.6", "sageattention>=2"),
        ("flash", "flash_attn", "2.5.9", "flash-attn>=2"),
        ("xformers", "xformers", "0.0.28", "xformers>=0"),
    ],
)
def test_a_package_that_is_too_old_is_told_with_what_is_needed(
    install: Install, wanted: str, package: str, version: str, needed: str
) -> None:
    install(package, version)
    with pytest.raises(ModelError) as caught:
        choose_attention(wanted, CPU, torch.bfloat16)
    said = str(caught.value)
    assert f"attention is {wanted}, but {package} {version} can not be used" in said
    assert needed in said
    assert "attention = auto" in said


def test_a_package_that_was_built_for_another_torch_is_told(install: Install) -> None:
    install("flash_attn", "2.8.3", "raise ImportError('undefined symbol: _ZN3c10\\nmore')")
    with pytest.raises(ModelError, match=r"flash_attn 2\.8\.3 can not .*: undefined symbol: _ZN3c"):
        choose_attention("flash", CPU, torch.bfloat16)


def test_a_package_without_a_kernel_for_the_device_is_told(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def able(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return query

    def unable(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("No operator found for `memory_efficient_attention_forward`\nand")

    install("xformers", "0.0.35")
    xops = SimpleNamespace(memory_efficient_attention=able)
    monkeypatch.setattr(attention_dispatch, "_CAN_USE_XFORMERS_ATTN", True)
    monkeypatch.setattr(attention_dispatch, "xops", xops)
    before = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    assert choose_attention("xformers", CPU, torch.float32) == "xformers"
    xops.memory_efficient_attention = unable
    with pytest.raises(ModelError, match=r"xformers 0\.0\.35 can not be used for float32 on cpu:"):
        choose_attention("xformers", CPU, torch.float32)
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == before
    monkeypatch.delattr(attention_dispatch, "dispatch_attention_fn")
    assert choose_attention("xformers", CPU, torch.float32) == "xformers"  # nobody to ask


def test_auto_passes_over_a_package_that_can_not_be_used(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install("xformers", "0.0.28")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with caplog.at_level(logging.WARNING):
        assert choose_attention("auto", GPU, torch.float16) == "native"
    assert "xformers 0.0.28 can not be used" in caplog.text
    assert "PyTorch's own attention is used" in caplog.text
