"""Targets that are not ours: which of ours stands for them."""

from pathlib import Path

import luigi
from luigi.mock import MockTarget

from superluigi import LocalFileTarget, LocalFolderTarget
from superluigi.targets.foreign import is_luigi_s3, own_target, own_targets


def test_a_target_of_ours_stands_for_itself(tmp_path: Path) -> None:
    target = LocalFileTarget(tmp_path / "a.csv")

    assert own_target(target) is target


def test_for_luigis_local_target_stands_one_of_the_shape_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    targets = own_targets(luigi.LocalTarget(str(tmp_path / name)) for name in ("folder", "absent.csv"))

    assert [(type(target), target.path) for target in targets] == [
        (LocalFolderTarget, tmp_path / "folder"),
        (LocalFileTarget, tmp_path / "absent.csv"),
    ]


def test_for_others_none_of_ours_stands() -> None:
    assert own_target(MockTarget("table")) is None
    assert own_targets([MockTarget("table"), None]) == []
    assert not is_luigi_s3(MockTarget("table"))
