"""Every setting: its default, its range, and the sentence for a wrong one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from bot.config import Config, ConfigError, Defaults, Device, load_config, read_token
from generator.protocol import JobRequest, Variant, job_request, limits

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def load(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, {})


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    sentence = str(caught.value)
    prefix = f"{folder / 'config.toml'}: "
    assert sentence.startswith(prefix)
    assert "\n" not in sentence
    return sentence.removeprefix(prefix)


def as_toml_values(config: Config) -> dict[str, dict[str, object]]:
    return msgspec.to_builtins(config, enc_hook=str)  # type: ignore[no-any-return]


def test_the_example_names_every_setting_with_its_default() -> None:
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    defaults = as_toml_values(Config())
    optional = [(n, key) for n in defaults for key in defaults[n] if defaults[n][key] is None]
    assert optional == [("defaults", "resolution")]  # TOML has no word for "left out"
    for name, key in optional:
        del defaults[name][key]
        assert f"\n# {key} = " in EXAMPLE.read_text(encoding="utf-8")
    assert {name: list(section) for name, section in example.items()} == {
        name: list(section) for name, section in defaults.items()
    }
    for name, section in example.items():
        for key, value in section.items():
            expected = defaults[name][key]
            assert (value, type(value)) == (
                list(expected) if isinstance(expected, tuple) else expected,
                list if isinstance(expected, tuple) else type(expected),
            ), f"{name}.{key}"


def test_the_example_gives_a_reason_above_every_setting() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    settings = [n for n, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert settings
    for n in settings:
        assert lines[n - 1].startswith("# "), lines[n]


def test_roles_have_weights(tmp_path: Path) -> None:
    config = load(tmp_path, "[turns]\nrole_weights = [[123, 2], [456, 0.5]]")
    assert config.turns.role_weights == ((123, 2.0), (456, 0.5))


def test_the_example_states_the_ranges_that_are_checked() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    section = text[text.index("[defaults]") : text.index("[limits]")]
    for setting in ("seconds", "steps", "resolution", "latent_window_size", "fps", "crf"):
        comment = re.split(rf"\n(?:# )?{setting} = ", section)[0].rsplit(" = ", 1)[-1]
        low, high = limits(setting)
        assert f"{low:g} to {high:g}" in comment, setting


def test_the_example_loads_as_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(EXAMPLE.read_bytes())
    (tmp_path / "empty.toml").write_bytes(b"")
    loaded = load_config(tmp_path / "config.toml", {})
    assert loaded == load_config(tmp_path / "empty.toml", {})
    assert loaded.storage.data_dir == tmp_path / "data"
    assert loaded.generator.model == "demo"


def test_defaults_are_settings_of_a_job() -> None:
    defaults = msgspec.structs.asdict(Defaults())
    assert job_request(prompt="x", seed=1, **defaults) == JobRequest(prompt="x", seed=1)


def test_what_is_set_is_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [discord]
        api_url = "http://127.0.0.1:8080/api/v10/"
        gateway_url = "ws://[::1]:8080/gateway"
        guild_ids = [1234567890123456789]
        allow_dms = true
        [storage]
        data_dir = "elsewhere/data"
        [generator]
        model = "./models/FramePack"
        variant = "f1"
        device = "cpu"
        [defaults]
        seconds = 3
        [limits]
        upload_limit_mib = 50
        """,
    )
    assert config.discord.api_url == "http://127.0.0.1:8080/api/v10"
    assert config.discord.gateway_url == "ws://[::1]:8080/gateway"
    assert config.discord.guild_ids == (1234567890123456789,)
    assert config.discord.allow_dms
    assert config.storage.data_dir == tmp_path / "elsewhere" / "data"
    assert config.generator.model == str(tmp_path / "models" / "FramePack")
    assert config.generator.variant is Variant.F1
    assert config.generator.device is Device.CPU
    assert config.defaults.seconds == 3.0
    assert config.limits.upload_limit_mib == 50.0


def test_absolute_and_home_folders_are_kept(tmp_path: Path) -> None:
    there = (tmp_path / "there").as_posix()
    config = load(tmp_path, f'[storage]\ndata_dir = "{there}"\n[generator]\nmodel = "~/weights"')
    assert config.storage.data_dir == tmp_path / "there"
    assert config.generator.model == str(Path.home() / "weights")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[defaults]\nsteps = 500",
            "steps is 500; it must be a whole number from 1 to 100",
        ),
        ("[defaults]\nsteps = 2.5", "defaults.steps is 2.5; it must be a whole number"),
        ("[defaults]\nsteps = true", "defaults.steps is true; it must be a whole number"),
        ("[defaults]\nsteps = '9'", 'defaults.steps is "9"; it must be a whole number'),
        (
            "[defaults]\nseconds = nan",
            "seconds is nan; it must be a number from 0.1 to 120",
        ),
        ("[defaults]\nseconds = -inf", "defaults.seconds is -inf; it must be a number from 0.1"),
        ("[defaults]\nseconds = 90", "at most limits.max_seconds, which is 20"),
        ("[defaults]\nguidance_scale = 99", "defaults.guidance_scale is 99; it must be a number"),
        ("[defaults]\nstep_cache = 'tea'", 'one of "none", "teacache", "magcache", "first_block"'),
        ("[generator]\nvariant = 1", 'generator.variant is 1; it must be one of "i2v", "f1"'),
        ("[generator]\nmodel = ''", 'generator.model is ""; it must be a text of 1 to'),
        ("[limits]\nmax_prompt_chars = 5000", "it must be a whole number from 1 to 2000"),
        (
            "[limits]\nmax_seconds = 0",
            "max_seconds is 0; it must be a number from 0.1 to 120",
        ),
        ("[discord]\nguild_ids = ['x']", "it must be a list, each entry a whole number from 1"),
        ("[discord]\nguild_ids = 5", "discord.guild_ids is 5; it must be a list"),
        (
            "[turns]\nrole_weights = [[5, 0]]",
            "turns.role_weights is [[5,0]]; it must be a list, each entry a list of a whole number "
            "from 1 to 9223372036854775807 and a number from 0.1 to 100",
        ),
        ("[turns]\nrole_weights = [5]", "each entry a list of a whole number from 1"),
        ("[discord]\nallow_dms = 'no'", 'discord.allow_dms is "no"; it must be true or false'),
        ("[discord]\napi_url = 1979-05-27", 'discord.api_url is "1979-05-27"; it must be a text'),
        ("[storage]\ndata_dir = ''", 'storage.data_dir is ""; it must be the path of a folder'),
        ("discord = 5", "discord is 5; it must be a section that begins [discord]"),
        ("[[limits]]\nmax_seconds = 5", "it must be a section that begins [limits]"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_range(
    tmp_path: Path, text: str, sentence: str
) -> None:
    assert sentence in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[defaults]\nstpes = 5", "defaults.stpes is no setting; did you mean defaults.steps?"),
        ("[limits]\ncrf = 5", "limits.crf is no setting; did you mean defaults.crf?"),
        ("[storage]\ndatadir = 'x'", "did you mean storage.data_dir?"),
        ("device = 'cpu'", "device is no setting; did you mean generator.device?"),
        ("[default]\nsteps = 5", "there is no section [default]; did you mean defaults?"),
        ("[zzz]\na = 1", "the known ones are discord, admins, storage, generator, defaults"),
        (
            "[discord]\ntoken = 'abc'",
            "discord.token: no token belongs in this file; set DISCORD_TOKEN",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    tmp_path: Path, text: str, sentence: str
) -> None:
    assert sentence in refusal(tmp_path, text)


@pytest.mark.parametrize("url", ["https://proxy.example/api/v10", "http://localhost:1/api", ""])
def test_api_addresses_that_are_safe(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, f"[discord]\napi_url = '{url}'").discord.api_url == url


@pytest.mark.parametrize(
    ("key", "url", "reason"),
    [
        ("api_url", "http://192.168.1.5/api", "plain http:// would send the token readable"),
        ("api_url", "http://127.0.0.1.evil.example/api", "plain http://"),
        ("api_url", "http://localhost.evil.example/api", "plain http://"),
        ("gateway_url", "ws://gateway.example/", "plain ws:// would send the token readable"),
        ("gateway_url", "https://gateway.example/", "an address like wss://HOST/PATH"),
        ("api_url", "ftp://127.0.0.1/", "an address like https://HOST/PATH"),
        ("api_url", "discord.com/api", "an address like https://HOST/PATH"),
        ("api_url", "https://", "an address like https://HOST/PATH"),
        ("api_url", "https://user:secret@host/", "an address like https://HOST/PATH"),
        ("api_url", "http://127.0.0.1@evil.example/", "an address like https://HOST/PATH"),
        ("api_url", "https://host:99999/", "an address like https://HOST/PATH"),
        ("api_url", "https://[::1/", "an address like https://HOST/PATH"),
        ("api_url", "https://host/?a=b", "an address like https://HOST/PATH"),
        ("api_url", "https://ho st/", "an address like https://HOST/PATH"),
    ],
)
def test_addresses_that_are_not_safe(tmp_path: Path, key: str, url: str, reason: str) -> None:
    sentence = refusal(tmp_path, f"[discord]\n{key} = '{url}'")
    assert sentence.startswith(f"discord.{key} is ")
    assert reason in sentence


def test_a_slip_in_the_toml_is_named_with_its_line(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, "[defaults]\nsteps = 5\nseconds 3\n")
    assert sentence.startswith("this is not TOML: ")
    assert "line 3" in sentence


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: there is no such file; copy config\.example"):
        load_config(tmp_path / "no.toml", {})
    with pytest.raises(ConfigError, match="it can not be read"):
        load_config(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(tmp_path / "latin.toml", {})


def test_notepads_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[defaults]\nsteps = 7", encoding="utf-8-sig")
    assert load_config(tmp_path / "config.toml", {}).defaults.steps == 7


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}).storage.data_dir == tmp_path / "data"
    (tmp_path / "config.toml").write_text("[defaults]\nsteps = 7")
    assert load_config(None, {}).defaults.steps == 7
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "other.toml").write_text("[defaults]\nsteps = 8")
    named = load_config(None, {"FRAMEPACK_BOT_CONFIG": "conf/other.toml"})
    assert named.defaults.steps == 8
    assert named.storage.data_dir == tmp_path / "conf" / "data"


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from.the-file\n", encoding="utf-8-sig")
    assert read_token({"DISCORD_TOKEN": " any.form at_all "}) == "any.form at_all"
    assert read_token({"DISCORD_TOKEN_FILE": str(file)}) == "from.the-file"
    assert read_token({"DISCORD_TOKEN": "first", "DISCORD_TOKEN_FILE": str(file)}) == "first"


def test_a_missing_token_says_how_to_get_one(tmp_path: Path) -> None:
    for environ in ({}, {"DISCORD_TOKEN": "  "}):
        with pytest.raises(ConfigError, match=r"no bot token: set DISCORD_TOKEN, .*Reset Token"):
            read_token(environ)
    with pytest.raises(ConfigError, match=r"DISCORD_TOKEN_FILE: .*none can not be read: No such"):
        read_token({"DISCORD_TOKEN_FILE": str(tmp_path / "none")})
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(ConfigError, match="empty; put the bot's token into it"):
        read_token({"DISCORD_TOKEN_FILE": str(tmp_path / "empty")})


def test_an_error_about_the_token_shows_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("first-secret\nsecond-secret\n")
    with pytest.raises(ConfigError, match="line break") as caught:
        read_token({"DISCORD_TOKEN_FILE": str(tmp_path / "two")})
    assert "secret" not in str(caught.value)
