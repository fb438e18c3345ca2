"""Where a value comes from, what is refused and how, and that the documents follow from the class."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final, get_type_hints

import pytest

from duologue import settings as known
from duologue.setting_texts import without_password
from duologue.settings import BadSetting, Loaded, Settings
from scripts.settings_page import PAGE, page

ROOT: Final = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def load(
    flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, config: Path | None = None
) -> Loaded:
    return known.load(flags or {}, environment or {}, None if config is None else str(config))


def refusal(
    flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, config: Path | None = None
) -> str:
    """The message of the refusal; one line."""
    with pytest.raises(BadSetting) as caught:
        load(flags, environment, config)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("port = 1\npage = 1\nmax_watch = 1\n")
    environment = {"DUOLOGUE_PORT": "2", "DUOLOGUE_PAGE": "2", "HOME": "/nowhere"}
    loaded = load({"port": "3"}, environment, file)
    settings = loaded.settings
    assert (settings.port, settings.page, settings.max_watch, settings.max_page) == (3, 2, 1, 200)
    sources = [loaded.sources[name] for name in ("port", "page", "max_watch", "max_page")]
    assert sources == ["--port", "DUOLOGUE_PAGE", str(file), "default"]


def test_the_file_is_named_by_the_flag_the_environment_or_the_platform(tmp_path: Path) -> None:
    usual = known.default_config_file()
    usual.parent.mkdir(parents=True)
    for number, path in enumerate((usual, tmp_path / "b.toml", tmp_path / "c.toml"), 1):
        path.write_text(f"port = {number}")
    assert load().settings.port == 1
    assert load(environment={"DUOLOGUE_CONFIG": str(tmp_path / "b.toml")}).settings.port == 2
    assert load({}, {"DUOLOGUE_CONFIG": str(tmp_path / "b.toml")}, tmp_path / "c.toml").settings.port == 3


def test_nobody_sets_anything(tmp_path: Path) -> None:
    loaded = load()
    assert loaded.settings.data == str(tmp_path / "share" / "duologue")
    assert loaded.settings == Settings(data=loaded.settings.data)
    assert set(loaded.sources.values()) == {"default"}


@pytest.mark.parametrize("field", known.fields(), ids=lambda field: field.name)
def test_each_setting_can_be_set_from_everywhere(field: Any, tmp_path: Path) -> None:
    kind = get_type_hints(Settings)[field.name]
    value, text = _another(field, kind)
    file = tmp_path / "a.toml"
    toml = {str: f'"{text}"', bool: text}.get(kind, f'["{text}"]' if isinstance(value, tuple) else text)
    # What some values need to be allowed.
    needed = {"allow_guests": "true", "database": "postgresql://host/name"}
    needed.pop(field.name, None)
    lines = [f'{name} = "{text}"' if "/" in text else f"{name} = {text}" for name, text in needed.items()]
    file.write_text("\n".join([f"{field.name} = {toml}", *lines]))
    flag = list(value) if isinstance(value, tuple) else text
    assert getattr(load({field.name: flag, **needed}).settings, field.name) == value
    variables = {known.variable(name): text for name, text in needed.items()}
    assert getattr(load({}, {**variables, known.variable(field.name): text}).settings, field.name) == value
    assert getattr(load(config=file).settings, field.name) == value


_TEXTS = {
    "host": "chat.example",
    "data": "/srv/duologue",
    "node": "one-1",
    "database": "postgresql://me:secret@one,two:5433/chat?sslmode=require",
    "bus": "nats://me:secret@one:4222,tls://two:4222",
}


def _another(field: Any, kind: Any) -> tuple[Any, str]:
    """An allowed value that isn't the default, and how it's written."""
    if kind is bool:
        return True, "true"
    if kind is str:
        choices = [choice for choice in field.metadata["choices"] if choice != field.default]
        text = choices[0] if choices else _TEXTS[field.name]
        return text, text
    if kind in (int, float):
        value = field.default - 1
        return value, str(value)
    text = "10.0.0.1" if field.name == "trusted_proxy" else "https://chat.example"
    return (text,), text


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "3000.0"),
        ("port", ""),
        ("port", "\n3000 x"),
        ("port", "9" * 5000),
        ("presence_grace", "nan"),
        ("presence_grace", "inf"),
        ("presence_grace", "-0.1"),
        ("message_rate", "0"),
        ("message_rate", "inf"),
        ("allow_guests", "maybe"),
        ("log_level", "loud"),
        ("host", ""),
        ("host", "a\0b"),
        ("host", "a..b"),
        ("host", "x" * 64),
        ("data", ""),
        ("data", "/tmp/a\0b"),
        ("data", "/tmp/a\nb"),
        ("allow_origin", "chat.example"),
        ("allow_origin", "ftp://chat.example"),
        ("allow_origin", "https://chat.example/"),
        ("allow_origin", "https://Chat.example"),
        ("allow_origin", "https://me@chat.example"),
        ("allow_origin", "https://chat.example:x"),
        ("allow_origin", "http://["),
        ("page", "201"),
        ("node", "a.b"),
        ("node", "x" * 33),
        ("trusted_proxy", "proxy.example"),
        ("trusted_proxy", "10.0.0.1/8"),
        ("database", "mysql://host/name"),
        ("database", "postgresql://"),
        ("bus", "redis://two"),
        ("bus", "nats://alone:4222"),
    ],
)
def test_a_refusal_names_the_setting_its_source_and_what_is_allowed(name: str, bad: str) -> None:
    message = refusal({}, {known.variable(name): bad})
    assert message.startswith(f"{name} is {bad!r}" if name != "page" else "page is 201")
    assert f"(from {known.variable(name)}), but " in message


@pytest.mark.parametrize(
    ("toml", "name"),
    [
        ("port = true", "port"),
        ("port = 3000.0", "port"),
        ("host = 5", "host"),
        ("allow_guests = 1", "allow_guests"),
        ("allow_origin = 5", "allow_origin"),
        ("allow_origin = [5]", "allow_origin"),
        ("presence_grace = []", "presence_grace"),
        ("log_level = ['info']", "log_level"),
        ("[port]\nnumber = 1", "port"),
    ],
)
def test_a_file_has_to_have_the_type(tmp_path: Path, toml: str, name: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(toml)
    message = refusal(config=file)
    assert message.startswith(f"{name} is ")
    assert f"(from {file}), but has to be " in message


@pytest.mark.parametrize("content", [b"port = ", b"prot = 1", b"\xff\xfe", b"port = 1\nport = 2"])
def test_a_file_that_cannot_be_read_as_settings(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    assert refusal(config=file).startswith(f"config file {file}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in refusal(config=tmp_path / "none.toml")
    assert str(tmp_path) in refusal(config=tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "chat.example", "127.example", "::ffff:8.8.8.8"])
def test_guests_are_served_on_loopback_alone(host: str) -> None:
    assert "--allow-guests" in refusal({"host": host})
    assert load({"host": host, "allow_guests": True}).settings.host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_needs_no_word(host: str) -> None:
    assert load({"host": host}).settings.host == host


def test_a_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load({"data": "here"}).settings.data == str(tmp_path / "here")
    assert load({}, {"DUOLOGUE_DATA": "~/there"}).settings.data == str(tmp_path / "home" / "there")


@pytest.mark.parametrize("field", known.fields(), ids=lambda field: field.name)
def test_each_setting_says_what_it_means(field: Any) -> None:
    meaning = field.metadata["meaning"]
    assert meaning.endswith(".")
    assert len(meaning) > 15
    if field.default != "":
        assert known.load({field.name: field.default}, {}).settings == load().settings


def test_the_page_is_in_step() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run .venv/bin/python scripts/settings_page.py"


def test_the_pages_file_loads(tmp_path: Path) -> None:
    sample = page().split("```toml\n")[1].split("```")[0]
    file = tmp_path / "a.toml"
    file.write_text(sample)
    loaded = load(config=file)
    assert {name for name, source in loaded.sources.items() if source == str(file)} == tomllib.loads(sample).keys()


def test_settings_that_a_page_names_exist() -> None:
    """docs/protocol.md and README.md name settings as `DUOLOGUE_X` or as a flag."""
    names = {known.flag(field.name) for field in known.fields()} | {"--config", "--json", "--version", "--help"}
    for name in ("README.md", "docs/protocol.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for word in text.replace("`", " ").replace('"', " ").replace(")", " ").split():
            if word.startswith("--") and word.strip("-"):
                assert word.rstrip(".,;:") in names, (name, word)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:p:w%40@host/name", "postgresql://me:***@host/name"),
        ("postgresql://me@host/name?password=secret&a=b", "postgresql://me@host/name?password=***&a=b"),
        ("nats://a:b@one:4222,nats://token@two:4222", "nats://a:***@one:4222,nats://***@two:4222"),
        ("nats://one:4222,nats://two:4222", "nats://one:4222,nats://two:4222"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
    name = "bus" if url.startswith("nats") else "database"
    message = refusal({}, {known.variable(name): url.replace("nats://", "x://").replace("postgresql", "x")})
    assert "secret" not in message
    assert "p:w" not in message
