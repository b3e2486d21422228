"""The folders in which a process works: kept while a run lasts, gone after it, found again after a kill."""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from superluigi.storage import processes, workplace

if TYPE_CHECKING:
    from pathlib import Path

GONE = f"{1 << 40}-0-abcdef01@{socket.gethostname()}"  # no process has this number


def homes(data_dir: Path) -> list[str]:
    return os.listdir(data_dir / "tmp") if (data_dir / "tmp").exists() else []


def test_alone_a_folder_goes_with_its_block(local_data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / workplace.STAGING_NAME
    with workplace.private_folder() as private, workplace.staging_folder(place) as staging:
        (private / "a").touch()
        (staging / "a").touch()
        are_there = private.is_relative_to(local_data_dir), staging.parent == place

    assert are_there == (True, True)
    assert homes(local_data_dir) == []
    assert not place.exists()


def test_a_run_gives_a_folder_that_was_left_empty_again(local_data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / workplace.STAGING_NAME
    with workplace.keeping_folders():
        given = []
        for _ in range(3):
            with workplace.private_folder() as private, workplace.staging_folder(place) as staging:
                given.append((private, staging))

    assert len(set(given)) == 1
    assert homes(local_data_dir) == []
    assert not place.exists()


def test_what_was_left_in_a_folder_is_never_seen_again(tmp_path: Path) -> None:
    with workplace.keeping_folders():
        with workplace.staging_folder(tmp_path / workplace.STAGING_NAME) as first:
            (first / "left").touch()
        with workplace.staging_folder(tmp_path / workplace.STAGING_NAME) as second:
            found = os.listdir(second)

    assert found == []
    assert os.listdir(tmp_path) == []


def test_threads_at_work_at_once_have_a_folder_each(tmp_path: Path) -> None:
    given: list[Path] = []
    both = threading.Barrier(2)

    def work() -> None:
        with workplace.staging_folder(tmp_path / workplace.STAGING_NAME) as folder:
            given.append(folder)
            both.wait(10)

    with workplace.keeping_folders():
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(set(given)) == 2
    assert os.listdir(tmp_path) == []


def test_places_that_are_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workplace, "_MAX_KEPT", 2)
    with workplace.keeping_folders():
        for name in "abcd":
            with workplace.staging_folder(tmp_path / name / workplace.STAGING_NAME):
                pass
        standing = [name for name in "abcd" if (tmp_path / name / workplace.STAGING_NAME).exists()]

    assert standing == ["c", "d"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ends", ["well", "killed"])
def test_a_run_clears_up_after_the_processes_that_it_forked(ends: str, local_data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / workplace.STAGING_NAME

    def work() -> None:
        with workplace.keeping_folders(), workplace.staging_folder(place) as folder:
            (folder / "half").touch()
            if ends == "killed":
                os.kill(os.getpid(), signal.SIGKILL)

    with workplace.keeping_folders():
        workplace.prepare_to_fork()
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        is_left = place.exists()

    assert is_left is (ends == "killed")
    assert not place.exists()
    assert homes(local_data_dir) == []


def test_a_journal_stands_while_its_block_runs_and_is_whole(local_data_dir: Path) -> None:
    with workplace.keeping_folders(), workplace.journal(b"what is to be done"):
        (home,) = (local_data_dir / "tmp").iterdir()
        (journal,) = workplace.journals_in(home)
        held = journal.read_bytes()
        mode = journal.stat().st_mode & 0o777

    assert held == b"what is to be done"
    assert mode == 0o600
    assert homes(local_data_dir) == []


@pytest.mark.parametrize("torn", [b"", b"2f746d70", b"zz\n", b"\xff\n"], ids=["empty", "torn", "no hex", "no text"])
def test_torn_notes_name_no_place(torn: bytes, local_data_dir: Path) -> None:
    home = local_data_dir / "tmp" / GONE
    home.mkdir(parents=True)
    (home / "places").write_bytes(torn)

    assert workplace.abandoned_homes() == [home]
    assert workplace.places_of(home) == []


def test_clearing_brings_back_what_was_moved_aside_and_leaves_the_living_alone(tmp_path: Path) -> None:
    place = tmp_path / workplace.STAGING_NAME
    (place / GONE / "lost.replaced").mkdir(parents=True)
    (place / GONE / "there.replaced").mkdir()
    (place / GONE / "half").touch()
    (place / processes.owner_token()).mkdir()
    (tmp_path / "there").mkdir()

    assert workplace.needs_clearing(place)
    workplace.clear(place)

    assert sorted(os.listdir(tmp_path)) == [workplace.STAGING_NAME, "lost", "there"]
    assert len(os.listdir(place)) == 1
    assert not workplace.needs_clearing(place)


def test_a_place_that_is_a_file_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / workplace.STAGING_NAME).touch()

    with pytest.raises(OSError, match=r"exists|Not a directory"):
        workplace.make_in(tmp_path / workplace.STAGING_NAME, tmp_path / workplace.STAGING_NAME)
