"""``history.py``: lo que se recuerda de otras veces, y que nada de lo que haya en su sitio estorbe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from comunicacion_tcp.cli.history import History, history_path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "estado" / "comunicacion_tcp" / "historial"


def test_what_one_keeps_another_remembers(place: Path) -> None:
    first = History(str(place))
    assert first.entries == []
    assert first.add("hola señor")
    assert first.add("adiós\tya")
    assert History(str(place)).entries == first.entries == ["hola señor", "adiós\tya"]


def test_only_its_owner_can_read_it(place: Path) -> None:
    before = os.umask(0)
    try:
        History(str(place)).add("hola")
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_one_that_others_could_read_is_theirs_no_more(place: Path) -> None:
    place.parent.mkdir(parents=True)
    older = place.with_name("historial.1")
    for file, said in ((older, "uno\n"), (place, "dos\n")):
        file.write_text(said)
        file.chmod(0o644)
    assert History(str(place)).entries == ["uno", "dos"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in (older, place)] == [0o600, 0o600]


def test_one_opened_to_others_between_two_messages(place: Path) -> None:
    past = History(str(place))
    past.add("uno")
    place.chmod(0o666)
    past.add("dos")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_followed(place: Path, tmp_path: Path, exists: bool) -> None:
    other = tmp_path / "de otro"
    if exists:
        other.write_text("secreto de otro\n")
        other.chmod(0o644)
    place.parent.mkdir(parents=True)
    place.symlink_to(other)
    place.with_name("historial.1").symlink_to(other)
    past = History(str(place))
    assert past.entries == []
    assert past.add("hola")
    assert other.exists() == exists
    if exists:
        assert other.read_text() == "secreto de otro\n"
        assert stat.S_IMODE(other.stat().st_mode) == 0o644


@pytest.mark.parametrize("message", ["", " secreto", "DESCONEXION", "a\0b", "a\nb", "\udcff", "x" * 4097])
def test_what_is_not_kept(place: Path, message: str) -> None:
    past = History(str(place))
    assert not past.add(message)
    assert past.entries == []
    assert not place.exists()


def test_the_same_twice_in_a_row_is_kept_once(place: Path) -> None:
    past = History(str(place))
    assert [past.add(message) for message in ("uno", "uno", "dos", "uno")] == [True, False, True, True]
    assert place.read_text() == "uno\ndos\nuno\n"


def test_two_at_once_lose_nothing(place: Path) -> None:
    one, other = History(str(place)), History(str(place))
    for number in range(50):
        one.add(f"uno {number}")
        other.add(f"otro {number}")
    assert len(History(str(place)).entries) == 100


def test_bounded_in_entries_and_in_bytes(place: Path) -> None:
    for _ in range(5):
        past = History(str(place))
        for number in range(1500):
            past.add(f"{number} {'x' * 100}")
        assert len(past.entries) == 1000
    assert [path.name for path in sorted(place.parent.iterdir())] == ["historial", "historial.1"]
    newest = History(str(place)).entries
    assert len(newest) == 1000
    assert newest[-1].startswith("1499 ")
    assert newest[0].startswith("500 ")


def test_without_a_place_it_lasts_what_the_conversation(tmp_path: Path) -> None:
    past = History(None)
    assert past.add("hola")
    assert past.entries == ["hola"]
    assert not list(tmp_path.iterdir())


def test_what_is_not_text_is_skipped(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(b"uno\n\xff\xfe\nd\0s\n\n" + b"y" * 300_000 + b"\ntres\nsin acabar")
    past = History(str(place))
    assert past.entries == ["tres", "sin acabar"]
    assert past.add("cuatro")
    assert past.entries[-1] == "cuatro"


@pytest.mark.parametrize(
    "what", ["una carpeta", "una tubería", "nadie la lee", "no cabe una carpeta", "un enlace roto"]
)
def test_whatever_is_in_its_place_does_not_matter(place: Path, what: str) -> None:
    place.parent.parent.mkdir()
    if what == "no cabe una carpeta":
        place.parent.write_text("")
    else:
        place.parent.mkdir()
    if what == "una carpeta":
        place.mkdir()
    elif what == "una tubería":
        os.mkfifo(place)
    elif what == "nadie la lee":
        place.touch(mode=0)
    elif what == "un enlace roto":
        place.symlink_to("/no/existe")
    past = History(str(place))
    assert past.add("hola")
    assert past.entries == ["hola"]


def test_where_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/casa")
    monkeypatch.setenv("XDG_STATE_HOME", "/estado")
    assert history_path() == "/estado/comunicacion_tcp/historial"
    for ignored in ("", "relativa"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert history_path() == "/casa/.local/state/comunicacion_tcp/historial"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nadie sabe cuál es su casa
    assert history_path() is None


def test_where_it_lives_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        patch.setenv("LOCALAPPDATA", "/datos")
        assert history_path() == "/datos/comunicacion_tcp/historial"
        patch.delenv("LOCALAPPDATA")
        assert history_path() is None
