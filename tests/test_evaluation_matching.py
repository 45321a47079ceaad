from pathlib import Path

import pytest

from irn_cli.errors import InputError, UsageError
from irn_cli.evaluation.matching import Folder


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "name",
    ["baby.png", "baby_x4.png", "babyx4.jpg", "baby_SR.png", "baby_sr.webp", "baby_rlt.png", "baby_x4_SR.png",
     "baby_LR.png", "baby_out.png", "baby_down4.png", "baby_up4.png", "baby_EDSR.png", "baby_x4-EDSR.png",
     "babyx4_x4_SR.png", "baby_recon.png", "baby_down.png", "baby_EDSR_x4.png", "baby_LRBI_x4.png"],
)  # fmt: skip
def test_the_usual_suffixes(tmp_path: Path, name: str) -> None:
    found = Folder(folder(tmp_path, name, "bird.png"), 4, "EDSR")
    assert found.find("baby.png") == tmp_path / name
    assert found.find("bird.tif") == tmp_path / "bird.png"


@pytest.mark.parametrize("name", ["babyx2.png", "baby_x2.png", "a_baby.png", "baby2.png", "baby_RCAN.png", "x4.png"])
def test_other_names_belong_to_others(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no picture for baby\.png in .*"):
        Folder(folder(tmp_path, name), 4, "EDSR").find("baby.png")


def test_a_name_with_an_unknown_suffix_is_pointed_out(tmp_path: Path) -> None:
    found = Folder(folder(tmp_path, "img_1_RCAN.png", "img_10_SR.png"), 4, "EDSR")
    with pytest.raises(InputError, match=r"no picture for img_1\.png in .*; img_1_RCAN\.png has an unknown suffix$"):
        found.find("img_1.png")
    with pytest.raises(InputError, match=r"no picture for img_2\.png in [^;]*$"):
        found.find("img_2.png")


def test_a_suffix_may_be_part_of_the_original_name(tmp_path: Path) -> None:
    assert Folder(folder(tmp_path, "img_x4_SR.png"), 4).find("img_x4.png") == tmp_path / "img_x4_SR.png"


def test_accents_may_be_written_in_either_way(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"  # as most systems have it, and as a Mac's archives do
    found = Folder(folder(tmp_path, f"{apart}/{apart}_x4.png", f"b{composed}.png"), 4)
    assert found.find(f"{composed}.png", composed) == tmp_path / apart / f"{apart}_x4.png"
    assert found.find(f"b{apart}.png") == tmp_path / f"b{composed}.png"


def test_data_sets_of_one_name_are_looked_for_by_their_paths(tmp_path: Path) -> None:
    results = Folder(folder(tmp_path / "results", "one/Set5/baby.png", "two/Set5/baby.png"), 4)
    assert results.find("baby.png", "two/Set5") == tmp_path / "results" / "two" / "Set5" / "baby.png"
    lone = Folder(folder(tmp_path / "lone", "baby.png"), 4)
    assert lone.find("baby.png", str(folder(tmp_path / "data" / "Set5", "baby.png"))) == tmp_path / "lone" / "baby.png"


def test_doubled_pictures_are_named(tmp_path: Path) -> None:
    found = Folder(folder(tmp_path, "baby.png", "baby_x4.png"), 4)
    with pytest.raises(InputError, match=r"expected one picture for baby\.png in .*, found baby\.png, baby_x4\.png"):
        found.find("baby.png")


def test_originals_of_one_stem_are_told_apart_by_their_formats(tmp_path: Path) -> None:
    found = Folder(folder(tmp_path, "a.jpg", "a.png", "b.jpg", "b_x4.png"), 4)
    assert found.find("a.png") == tmp_path / "a.png"
    assert found.find("a.jpg") == tmp_path / "a.jpg"
    with pytest.raises(InputError, match=r"expected one picture for a\.tif in .*, found a\.jpg, a\.png"):
        found.find("a.tif")
    with pytest.raises(InputError, match=r"expected one picture for b\.jpg in .*, found b\.jpg, b_x4\.png"):
        found.find("b.jpg")


def test_small_and_restored_pictures_in_one_folder(tmp_path: Path) -> None:
    names = ("a_orig.png", "a_down.png", "a_recon.png", "b_x4_SR.png", "b_x4_LR.png", "b_x4_HR.png")
    restored, small = (Folder(folder(tmp_path, *names), 4, "", [kind]) for kind in ("restored", "small"))
    assert [restored.find(name) for name in ("a.png", "b.png")] == [tmp_path / "a_recon.png", tmp_path / "b_x4_SR.png"]
    assert [small.find(name) for name in ("a.png", "b.png")] == [tmp_path / "a_down.png", tmp_path / "b_x4_LR.png"]
    with pytest.raises(InputError, match=r"expected one picture for a\.png in .*, found a_down\.png, a_recon\.png"):
        Folder(tmp_path, 4).find("a.png")


def test_any_scale(tmp_path: Path) -> None:
    found = Folder(folder(tmp_path, "a_up2.png", "b_x8.png"))
    assert found.find("a.png") == tmp_path / "a_up2.png"
    assert found.find("b.png") == tmp_path / "b_x8.png"


def test_sub_folders(tmp_path: Path) -> None:
    found = Folder(folder(tmp_path, "Set5/a.png", "Set14/a.png", "Set14/deep/b_x4.png", "c.png"), 4)
    assert found.find("a.png", "Set5") == tmp_path / "Set5/a.png"
    assert found.find("a.png", "Set14") == tmp_path / "Set14/a.png"
    assert found.find("deep/b.png", "Set14") == tmp_path / "Set14/deep/b_x4.png"
    assert found.find("b.png", "Set14") == tmp_path / "Set14/deep/b_x4.png"
    assert found.find("c.png", "mine") == tmp_path / "c.png"
    with pytest.raises(InputError, match="no picture for c"):
        found.find("c.png", "Set5")
    with pytest.raises(InputError, match="expected one picture for a"):
        found.find("a.png")


def test_names_of_one_stem_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    found = Folder(folder(tmp_path, "one/a.png", "two/a.png"), 4)
    assert found.find("two/a.png") == tmp_path / "two/a.png"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        Folder(tmp_path / "absent", 4)
    with pytest.raises(UsageError, match="no pictures in"):
        Folder(tmp_path, 4)
