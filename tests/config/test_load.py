"""edge.config.load: defaults, rules, origins, and every error at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import config as module
from edge import settings
from edge.config import Config, ConfigErrors, Loaded, default_path, load, printable, shown
from edge.errors import ConfigError, ExitCode
from edge.rules import is_loopback
from edge.settings import KEYS


def text(tmp_path: Path, content: str) -> Loaded:
    """What comes of a file with this content."""
    path = tmp_path / "edge.toml"
    path.write_text(content)
    return load(path)


def wrong(tmp_path: Path, content: str) -> list[str]:
    """The errors of a file with this content, one by one."""
    with pytest.raises(ConfigErrors) as caught:
        text(tmp_path, content)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def test_the_defaults_are_those_of_the_issue() -> None:
    loaded = load()
    assert loaded.config == Config()
    config = loaded.config
    assert (config.audio.rate, config.audio.channels, config.audio.packet_ms) == (16000, 1, 100)
    assert config.audio.segment_target_ms == 15000
    connection = config.connection
    assert connection.max_reconnect_attempts == 10
    assert (connection.initial_reconnect_delay, connection.max_reconnect_delay) == (1.0, 30.0)
    assert (connection.grace_window, connection.heartbeat_interval) == (120.0, 30.0)
    assert (connection.connection_timeout, connection.barrier_interval) == (10.0, 0.25)
    assert connection.proof_of_life_timeout == 25.0
    assert config.buffer.ring_seconds == 180.0
    assert set(loaded.origins.values()) == {"default"}


def test_every_default_keeps_its_own_rule() -> None:
    for known in KEYS.values():
        assert type(known.default) is known.type
        assert known.setting.rule.fault(known.default) is None
        assert known.setting.doc.endswith((".", "`."))


def test_the_file_beats_the_default_and_an_option_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        '[server]\nurl = "https://one"\nagent = "a"\n[audio]\nrate = 48000\n[connection]\ngrace_window = 5\n'
    )
    loaded = load(path, {"server.url": "https://two", "server.event": None, "connection.barrier_interval": 1})
    assert loaded.config.server.url == "https://two"
    assert loaded.config.audio.rate == 48000
    assert loaded.config.connection.grace_window == 5.0
    assert type(loaded.config.connection.grace_window) is float
    assert loaded.origins["server.url"] == "--server"
    assert loaded.origins["server.agent"] == str(path)
    assert loaded.origins["server.event"] == "default"
    assert loaded.origins["connection.barrier_interval"] == "option"


def test_an_option_replaces_even_a_wrong_value_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[server]\nurl = "nonsense"\n')
    assert load(path, {"server.url": "https://good"}).config.server.url == "https://good"


def test_all_errors_come_at_once_each_with_key_value_and_rule(tmp_path: Path) -> None:
    problems = wrong(
        tmp_path,
        """
        stray = 1
        panel = 7
        [server]
        url = "ftp://host"
        agent = ""
        allow_insecure = "yes"
        [audio]
        rat = 16000
        rate = true
        packet_ms = 7
        source = "mic"
        [conection]
        grace_window = 5
        [buffer]
        ring_seconds = inf
        """,
    )
    assert problems == [
        "stray = ***: no such key; the nearest one is spool.sync_interval",
        "panel: must be a table: write [panel] on a line of its own",
        "conection.grace_window = 5: no such key; the nearest one is connection.grace_window",
        f'server.url = "ftp://host": must be {KEYS["server.url"].setting.rule.text}',
        'server.agent = "": must be 1 to 200 characters',
        'server.allow_insecure = "yes": must be true or false',
        "audio.rat = 16000: no such key; the nearest one is audio.rate",
        "audio.rate = true: must be 8000 to 192000 Hz, as a whole number",
        "audio.packet_ms = 7: must be 20 to 250 ms",
        'audio.source = "mic": must be alsa:DEVICE, wav:PATH, tone:HZ or tone:noise:SEED',
        "buffer.ring_seconds = inf: must be 5 to 86400 s",
    ]


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("[audio]\nrat = 1", "audio.rate"),
        ("rate = 1", "audio.rate"),
        ("[server]\nrate = 1", "audio.rate"),
        ("[conection]\nbarrier_intervall = 1", "connection.barrier_interval"),
        ("[buffer]\nring = 1", "buffer.ring_seconds"),
        ('[server]\nserver = "x"', "server."),
        ("[serve]", "server."),
        ('["odd\\nname"]\n"\\u0000" = 1', ""),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, written: str, nearest: str) -> None:
    (problem,) = wrong(tmp_path, written)
    assert f"no such key; the nearest one is {nearest}" in problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("audio.rate", [8000, 44100, 192000], [7999, 192001, -1, 16000.5, "16000", True, [16000]]),
        ("audio.channels", [1, 2, 8], [0, 9]),
        ("audio.packet_ms", [20, 60, 100, 250], [19, 251]),
        ("audio.segment_target_ms", [600, 15000], [499, 600001]),
        ("audio.source", ["alsa:plughw:CARD=Mic", "wav:/a b.wav", "tone:440", "tone:noise:any seed"],
         ["", "alsa:", "wav:", "tone:", "tone:x", "tone:0", "tone:0.5", "tone:noise:", "tone:-1", "ALSA:x", "alsa:a\nb",
          "mp3:x"]),
        ("server.agent", ["a", "Müller & Co", "x" * 200], ["", "x" * 201, "a\nb", "a\x00"]),
        ("server.language", ["", "de", "en-GB", "any", "zh-Hant-TW"], ["deutsch!", "d", "de_DE", "-"]),
        ("server.timezone", ["", "Europe/Berlin", "UTC", "Etc/GMT+1"],
         ["Berlin", "Europe/Nowhere", "../etc/passwd", "/etc/passwd", "x\x00", "europe", "Europe"]),
        ("server.allow_insecure", [True, False], [1, "true"]),
        ("connection.proxy",
         ["", "environment", "http://proxy:3128", "HTTP://proxy", "http://10.0.0.1:1", "http://[::1]:3128/",
          "http://me:secret@proxy:3128"],
         ["none", "proxy:3128", "https://proxy", "socks5://proxy:1080", "http://", "http://proxy:0", "http://proxy/x",
          "http://proxy:65536", "http://[zz]:1", "http://a b:1", "http://me@you@proxy", "http://me:\u202ex@proxy"]),
        ("connection.max_reconnect_attempts", [1, 1000], [0, -1, 1.5]),
        ("connection.initial_reconnect_delay", [0.01, 1, 30], [0, -1, "1", True, float("nan"), float("inf"), 10**400]),
        ("connection.grace_window", [0.1, 120, 86400], [0, 86401]),
        ("connection.heartbeat_interval", [0.1, 150], [0, 151]),
        ("connection.connection_timeout", [0.1, 300], [0, 301]),
        ("connection.barrier_interval", [0.01, 5], [0, 5.1]),
        ("connection.proof_of_life_timeout", [0.1, 600], [0, 601]),
        ("buffer.ring_seconds", [20, 700, 3600.5], [4.9, 86401, -5]),
        ("panel.record_button", [0, 26], [-1, 28, "17"]),
    ],
)  # fmt: skip
def test_rules(key: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        loaded = load(overrides={key: value})
        section, _, name = key.partition(".")
        assert getattr(getattr(loaded.config, section), name) == value
    for value in bad:
        with pytest.raises(ConfigErrors) as caught:
            load(overrides={key: value})
        (problem,) = caught.value.problems
        assert problem.key == key, value
        assert problem.rule.startswith("must be "), value
        assert str(problem).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "https://aia.example", "https://aia.example:8443", "HTTPS://AIA.Example/", "http://localhost:1", "http://127.9.9.9",
        "http://[::1]:8765", "http://[::ffff:127.0.0.1]", "https://[2001:db8::1]:443", "https://raspberrypi.local",
        "https://192.168.1.4", "https://a_b.example.", "https://xn--mller-kva.example", "https://[fe80::1%25eth0]",
    ],
)  # fmt: skip
def test_urls_that_are_accepted(url: str) -> None:
    assert load(overrides={"server.url": url}).config.server.url == url.removesuffix("/")


@pytest.mark.parametrize(
    "url",
    [
        " ", "host", "host:80", "//host", "http://", "https://", "https:///x", "https:host", "ftp://host", "ws://host",
        "wss://host:1/x", "https://host/path", "https://host?x", "https://host#x", "https://host?", "https://host#",
        "https://host:0", "https://host:65536", "https://host:x", "https://host:-1", "https://[::1", "https://[zz]",
        "https://ho st", "https://ho\tst", "https://host\n", " https://host", "https://müller.example", "https://-a-",
        "https://a..b?c", "https://a..b", "https://" + "a" * 64, "https://" + "a" * 254, "https://[::1]x", "https://[v1.x]",
        "https://host:80:80", "https://host\\x",
        "https://%41",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"server.url": url})
    assert [problem.key for problem in caught.value.problems] == ["server.url"]
    assert str(caught.value).isprintable()


def test_a_websocket_address_is_put_right() -> None:
    with pytest.raises(ConfigErrors, match="write https:// here"):
        load(overrides={"server.url": "wss://host"})


@pytest.mark.parametrize(
    "host", ["host", "10.0.0.1", "[2001:db8::1]", "localhost.example", "127.1", "[::ffff:10.0.0.1]"]
)
def test_plain_http_beyond_this_machine_needs_permission(host: str) -> None:
    for scheme in ("http", "HTTP"):
        with pytest.raises(ConfigErrors, match="allow_insecure = true"):
            load(overrides={"server.url": f"{scheme}://{host}"})
        loaded = load(overrides={"server.url": f"{scheme}://{host}", "server.allow_insecure": True})
        assert any("readable" in note for note in loaded.notes)
    assert not is_loopback(f"http://{host}")


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@host", "https://hunter2@host", "https://host/?token=hunter2", "https://u:a?hunter2@host",
        "https://host#hunter2", "https://u:hunter2@@host?a@b", "ws://u:hunter2@host", "u:hunter2@host", "http://u:hunter2@h",
        "https://u:hunter2@host:99999", "https://u:hunter2@[::1",
    ],
)  # fmt: skip
def test_a_secret_in_the_url_is_never_shown(url: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"server.url": url})
    assert "hunter2" not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        '[server]\ntoken = "hunter2"', '[server]\npassword = "hunter2"', '[server.auth]\nx = "hunter2"',
        'key = "hunter2"',
        '[wifi]\npsk = "hunter2"', 'server = "hunter2"', '[server]\nagent = ["hunter2"]',
        '[server]\nurl = {a = "hunter2"}',
        '[server]\ntoken_fil = ["hunter2"]', '[server]\nlanguag = {x = "hunter2"}', 'server.token_ = "hunter2"',
        '[server]\nurls = "https://u:hunter2@host"', '[server]\nURL = "https://u:hunter2@host"',
        'token = "hunter2', "token = hunter2", '[server]\ntoken = \'hunter2\'\ntoken = "x"',
    ],
)  # fmt: skip
def test_what_may_be_a_secret_is_never_shown(tmp_path: Path, content: str) -> None:
    for problem in wrong(tmp_path, content):
        assert "hunter2" not in problem


def test_a_token_in_the_wrong_place_is_sent_to_its_file(tmp_path: Path) -> None:
    (problem,) = wrong(tmp_path, '[server]\ntoken = "abc"')
    assert problem.startswith("server.token = ***: no such key; ")
    assert "server.token_file" in problem


def test_a_token_in_place_of_its_file_is_not_shown() -> None:
    assert shown("server.token_file", "eyJhbGciOiJIUzI1NiJ9x") == '"***"'
    assert shown("server.token_file", "/etc/edge/token") == '"/etc/edge/token"'
    assert shown("server.refresh_token_file", "4nYUCw0wZRqK") == '"***"'  # Supabase's are that short
    assert shown("server.refresh_token_file", "refresh-token") == '"refresh-token"'


def test_the_arguments_of_a_command_are_not_shown() -> None:
    assert shown("server.token_command", "/usr/bin/give --password hunter2") == '"/usr/bin/give ***"'
    assert shown("server.token_command", "/usr/bin/give") == '"/usr/bin/give"'


FILES = {"server.refresh_key_file": "k", "server.refresh_token_file": "t"}


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"server.token_command": "give-token"}, "must be an absolute path and arguments, or empty"),
        ({"server.token_command": "/bin/echo 'x"}, "a quotation mark is not closed"),
        ({"server.token_command": "/bin/echo x\n"}, "must be an absolute path"),
        ({"server.token_command": "   "}, "must be an absolute path"),
        ({"server.refresh_url": "https://p.example/auth/v1", **FILES}, "and nothing behind it"),
        ({"server.refresh_url": "http://p.example", **FILES}, "the tokens would travel readable"),
        ({"server.refresh_url": "https://p.example"}, "is needed beside server.refresh_url"),
        ({"server.refresh_token_file": "t"}, "is needed beside server.refresh_url, and only there"),
        ({"server.token_file": "t", "server.token_command": "/bin/x"}, "cannot be used beside server.token_file"),
        (
            {"server.token_command": "/bin/x", "server.refresh_url": "https://p.example", **FILES},
            "cannot be used beside server.token_command: a token comes from one place",
        ),
    ],
)
def test_a_token_comes_from_one_place_and_by_a_whole_way(given: dict[str, object], rule: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"server.url": "https://host", **given})
    assert rule in str(caught.value)


def test_ways_to_a_token_that_are_whole() -> None:
    load(overrides={"server.token_command": "/bin/echo 'two words' x"})
    load(overrides={"server.refresh_url": "https://p.example", **FILES})
    load(overrides={"server.refresh_url": "http://127.0.0.1:9999", **FILES})
    load(overrides={"server.refresh_url": "http://p.example", "server.allow_insecure": True, **FILES})


def test_packets_must_hold_whole_frames() -> None:
    with pytest.raises(ConfigErrors, match=r"whole number of frames at audio.rate = 11025"):
        load(overrides={"audio.rate": 11025, "audio.packet_ms": 100})
    assert load(overrides={"audio.rate": 11025, "audio.packet_ms": 40}).config.audio.packet_ms == 40


def test_no_packet_outgrows_its_header() -> None:
    longest = load(overrides={"audio.rate": 192000, "audio.packet_ms": 250, "audio.channels": 8}).config.audio
    assert longest.rate * longest.packet_ms // 1000 <= 65535


def test_a_segment_is_longer_than_its_overlap() -> None:
    with pytest.raises(ConfigErrors, match="500 ms and one packet, 600 ms"):
        load(overrides={"audio.segment_target_ms": 599})


def test_delays_are_in_order() -> None:
    with pytest.raises(ConfigErrors, match=r"must not be below connection.initial_reconnect_delay = 40"):
        load(overrides={"connection.initial_reconnect_delay": 40})


def test_a_ring_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigErrors, match="MiB fit on this machine"):
        load(overrides={"buffer.ring_seconds": 86400, "audio.rate": 192000})
    monkeypatch.setattr(settings, "_ring_limit", lambda: 5 << 20)
    with pytest.raises(ConfigErrors, match=r"takes 5 MiB at this rate; at most 5 MiB fit|at most 5 MiB"):
        load()


def test_a_ring_holds_more_than_a_segment() -> None:
    """Only whole segments are confirmed by an aia-v4 server: a smaller ring would fill up and never be emptied."""
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"buffer.ring_seconds": 19.9})
    assert str(caught.value.problems[0]) == (
        "buffer.ring_seconds = 19.9: must be at least 20 s: audio.segment_target_ms = 15000, and 5 s behind it"
    )
    with pytest.raises(ConfigErrors, match="at least 605 s"):
        load(overrides={"audio.segment_target_ms": 600_000})
    assert load(overrides={"buffer.ring_seconds": 7, "audio.segment_target_ms": 2000}).config.buffer.ring_seconds == 7


def test_a_fallback_is_for_a_microphone() -> None:
    assert load(overrides={"audio.fallback": "alsa:hw:CARD=B,DEV=0"}).config.audio.fallback == "alsa:hw:CARD=B,DEV=0"
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"audio.fallback": "alsa:b", "audio.source": "wav:x.wav"})
    assert [str(problem) for problem in caught.value.problems] == [
        'audio.fallback = "alsa:b": needs a microphone as audio.source'
    ]
    with pytest.raises(ConfigErrors, match="must be alsa:DEVICE, or empty"):
        load(overrides={"audio.fallback": "wav:x.wav"})


def test_pins_differ() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"panel.record_led": 17, "panel.safe_led": 17})
    assert [str(problem) for problem in caught.value.problems] == [
        "panel.record_led = 17: must differ from panel.record_button",
        "panel.safe_led = 17: must differ from panel.record_button",
    ]
    assert load(overrides={"panel.record_led": 17, "panel.enabled": False}).config.panel.record_led == 17


def test_tls_files_need_tls_and_a_key_its_certificate() -> None:
    for key in ("server.ca_file", "server.client_cert"):
        with pytest.raises(ConfigErrors, match=f"{key} = .* has no use without TLS"):
            load(overrides={key: "file.pem", "server.url": "http://127.0.0.1"})
        assert load(overrides={key: "file.pem", "server.url": "https://127.0.0.1"}).notes == ()
    with pytest.raises(ConfigErrors, match=r"server.client_key = .* needs its certificate"):
        load(overrides={"server.client_key": "key.pem", "server.url": "https://host"})


def test_a_proxys_password_is_never_shown() -> None:
    for value in (
        "http://me:hunter2@proxy:3128",
        "http://me:hunter2@proxy:99999",
        "me:hunter2@proxy",
        "https://hunter2@p",
    ):
        assert "hunter2" not in shown("connection.proxy", value)
        try:
            loaded = load(overrides={"connection.proxy": value})
        except ConfigErrors as error:
            assert "hunter2" not in str(error)
        else:
            assert "hunter2" not in " ".join(loaded.notes)


def test_a_clash_is_not_reported_beside_the_error_that_explains_it() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"audio.packet_ms": 33, "audio.rate": 11025.5, "panel.record_led": 99})
    assert [problem.key for problem in caught.value.problems] == ["audio.rate", "panel.record_led"]


@pytest.mark.parametrize("key", ["token_file", "ca_file", "client_cert", "client_key"])
def test_files_lie_beside_the_configuration_file(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    def written(value: str) -> str:
        lines = ["[server]", 'url = "https://host"', f'{key} = "{value}"']
        if key == "client_key":
            lines.append('client_cert = "/c.pem"')
        return str(getattr(text(tmp_path, "\n".join(lines)).config.server, key))

    assert written("secret/token") == str(tmp_path / "secret/token")
    assert written("/run/token") == "/run/token"
    assert written("~/token") == "/home/me/token"
    assert written("") == ""
    assert load(overrides={"server.token_file": "token"}).config.server.token_file == "token"


def test_notes() -> None:
    assert any("server.url is not set" in note for note in load().notes)
    assert load(overrides={"server.url": "https://host"}).notes == ()
    (none,) = load(overrides={"server.url": "", "buffer.ring_seconds": 20}).notes
    assert "everything is kept on the card" in none
    small = load(overrides={"server.url": "https://host", "buffer.ring_seconds": 20}).notes
    assert len(small) == 1
    assert "buffer.ring_seconds below 75" in small[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[server", "line 1"),
        (b'[server]\nurl = "a"\nurl = "b"\n', "line 3"),
        (b"[server]\nurl = 'a\xff'\n", "not UTF-8 (line 2)"),
        (b"a = " + b"9" * 5000, "not TOML"),
        (b"a = " + b"[" * 100000, "not TOML"),
        (b"a = 2024-13-45", "not TOML"),
        (b"\x00", "not TOML"),
        (b"#" * ((1 << 20) + 1), "larger than 1 MiB"),
    ],
)
def test_what_is_no_toml_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / ("x" * 300), tmp_path / "a\0b", tmp_path / "a\nb"):
        with pytest.raises(ConfigErrors, match="cannot be read: ") as caught:
            load(path)
        assert str(caught.value).isprintable()


def test_the_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_PATH", tmp_path / "edge.toml")
    assert default_path() is None
    monkeypatch.setattr(module, "DEFAULT_PATH", Path("/etc/passwd/edge.toml"))
    assert default_path() is None
    (tmp_path / "edge.toml").touch()
    monkeypatch.setattr(module, "DEFAULT_PATH", tmp_path / "edge.toml")
    assert default_path() == tmp_path / "edge.toml"


def test_a_default_file_that_may_be_there_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Path("/") / ("x" * 300)  # as good as a closed folder, also for root: it cannot be looked at
    monkeypatch.setattr(module, "DEFAULT_PATH", closed)
    assert default_path() == closed


def test_without_a_zone_database_a_plausible_zone_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge import rules

    monkeypatch.setattr(rules, "_knows_zones", lambda: False)
    assert load(overrides={"server.timezone": "Europe/Nowhere"}).config.server.timezone == "Europe/Nowhere"
    with pytest.raises(ConfigErrors):
        load(overrides={"server.timezone": "../x"})


def test_printable() -> None:
    assert printable('a"b\\c\n\u202e\ud800é') == '"a\\"b\\\\c\\n\\u202e\\ud800é"'
    assert printable("x" * 200) == '"' + "x" * 100 + '..."'


def test_config_errors_are_one_line_and_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        text(tmp_path, "[audio]\nrate = 1\nchannels = 0\n")
    assert str(caught.value).startswith("2 errors in the configuration: audio.rate = 1: ")


def test_without_a_server_the_card_has_to_take_it() -> None:
    assert load(overrides={"server.url": ""}).config.server.url == ""
    with pytest.raises(ConfigErrors) as caught:
        load(overrides={"server.url": "", "spool.mode": "ram"})
    assert [problem.key for problem in caught.value.problems] == ["spool.mode"]
