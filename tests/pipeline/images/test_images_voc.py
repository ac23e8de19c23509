"""VOC's layout: what is read of it, what is refused, and that no annotation can do harm."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.voc import check_voc, find_classes, read_annotation, read_annotations

OBJECT = (
    "<object><name>cat</name><difficult>1</difficult>"
    "<bndbox><xmin>3</xmin><ymin>1</ymin><xmax>20</xmax><ymax>10</ymax></bndbox></object>"
)
ANNOTATION = f"<annotation><size><width>20</width><height>10</height></size>{OBJECT}</annotation>"


def annotation(folder: Path, text: str) -> Path:
    file = folder / "cat.xml"
    file.write_text(text)
    return file


def test_splits_are_the_lists_in_their_order(voc: Path) -> None:
    listing = open_source(voc, "test").listing()
    assert listing.paths == [f"JPEGImages/{number:06d}.jpg" for number in range(24, 32)]
    assert listing.class_names == ()
    assert (listing.labels == -1).all()
    (voc / "ImageSets" / "Main" / "few.txt").write_text("000003\n000001\n")
    assert open_source(voc, "few").listing().paths == ["JPEGImages/000003.jpg", "JPEGImages/000001.jpg"]


def test_folder_of_all_images_is_still_a_split(voc: Path) -> None:
    assert len(open_source(voc, "JPEGImages").listing().paths) == 32


def test_images_need_not_be_jpegs(voc: Path) -> None:
    (voc / "JPEGImages" / "000025.jpg").rename(voc / "JPEGImages" / "000025.png")
    source = open_source(voc, "test")
    assert source.listing().paths[1] == "JPEGImages/000025.png"
    assert source.read("JPEGImages/000025.png") == (voc / "JPEGImages" / "000025.png").read_bytes()


def test_unknown_split_is_answered_with_the_lists_there_are(voc: Path) -> None:
    with pytest.raises(InputError, match=r"There is no split 'trainvel' in '.*voc'\. Did you mean 'trainval'"):
        open_source(voc, "trainvel").listing()


def test_listed_image_that_is_missing_is_named_with_its_line(voc: Path) -> None:
    (voc / "JPEGImages" / "000026.jpg").unlink()
    with pytest.raises(InputError, match=r"Line 3 of '.*test.txt' names '000026', of which there is no image"):
        open_source(voc, "test").listing()


def test_two_images_of_one_annotation_are_refused(voc: Path) -> None:
    (voc / "JPEGImages" / "000025.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"'.*JPEGImages' holds '000025\.jpg' and '000025\.png', of one annotation"):
        open_source(voc, "test").listing()


def test_image_listed_twice_is_refused(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_text("000024\n000025\n000024\n")
    with pytest.raises(InputError, match=r"Line 3 of '.*', '000024', is in line 1 already"):
        open_source(voc, "test").listing()


def test_objects_are_read_with_class_box_and_difficulty(tmp_path: Path) -> None:
    text = ANNOTATION.replace(
        "</annotation>", OBJECT.replace("cat", "dog").replace("1</diff", "0</diff") + "</annotation>"
    )
    read = read_annotation(annotation(tmp_path, text), height=10, width=20)
    assert read.classes == ("cat", "dog")
    assert read.boxes.tolist() == [[3, 1, 20, 10]] * 2
    assert read.difficult.tolist() == [True, False]
    assert find_classes([read, read]) == ("cat", "dog")


def test_image_without_objects_is_a_negative(tmp_path: Path) -> None:
    read = read_annotation(annotation(tmp_path, "<annotation/>"), height=10, width=20)
    assert read.classes == ()
    assert read.boxes.shape == (0, 4)
    assert read.difficult.shape == (0,)


def test_box_of_one_pixel_and_a_fraction_of_one_are_read(tmp_path: Path) -> None:
    text = ANNOTATION.replace("<xmin>3<", "<xmin>19.5<").replace("<ymin>1<", "<ymin>10<")
    assert read_annotation(annotation(tmp_path, text), height=10, width=20).boxes.tolist() == [[19.5, 10, 20, 10]]


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    for was, now, sentence in [
        ("<xmin>3<", "<xmin>21<", "The box 21, 1, 20, 10 of object 1 of '.*cat.xml' has no area"),
        ("<ymax>10<", "<ymax>0<", "has no area"),
        ("<xmin>3<", "<xmin>0<", "The box 0, 1, 20, 10 of object 1 .* is not inside the image of 20 x 10 pixels"),
        ("<xmax>20<", "<xmax>21<", "is not inside the image"),
        ("<ymax>10<", "<ymax>11<", "is not inside the image"),
        ("<xmax>20<", "<xmax>wide<", "xmax of a bndbox in '.*cat.xml' is 'wide', not a number"),
        ("<xmax>20<", "<xmax>nan<", "is 'nan', not a number"),
        ("<xmax>20</xmax>", "", "xmax of a bndbox in '.*' is '', not a number"),
        ("bndbox", "box", "Object 1 of '.*cat.xml' has no bndbox"),
        ("<name>cat<", "<name> <", "Object 1 of '.*cat.xml' has no name"),
        ("<width>20<", "<width>30<", "describes an image of 30 x 10 pixels, but the image has 20 x 10"),
        ("</object>", "", "is not XML that can be read"),
        ("<annotation>", "\x01<annotation>", "is not XML that can be read"),
        ("<annotation>", '<?xml version="1.0" encoding="no-such"?><annotation>', "is not XML that can be read"),
    ]:
        assert was in ANNOTATION
        with pytest.raises(InputError, match=sentence) as error:
            read_annotation(annotation(tmp_path, ANNOTATION.replace(was, now)), height=10, width=20)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("entity", ['"catcatcat"', 'SYSTEM "file:///etc/passwd"'])
def test_entities_are_not_even_declared(tmp_path: Path, entity: str, encoding: str) -> None:
    bomb = f"<!DOCTYPE a [<!ENTITY name {entity}>]>{ANNOTATION.replace('<name>cat', '<name>&name;')}"
    file = tmp_path / "cat.xml"
    file.write_bytes(bomb.encode(encoding))
    with pytest.raises(InputError, match="it declares a document type, a, which an annotation does not need"):
        read_annotation(file, height=10, width=20)


def test_file_too_large_for_an_annotation_is_not_parsed(tmp_path: Path) -> None:
    file = annotation(tmp_path, ANNOTATION)
    with file.open("a") as opened:
        opened.write(" " * (4 * 2**20))
    with pytest.raises(InputError, match="has more than 4194304 bytes"):
        read_annotation(file, height=10, width=20)


def test_image_without_annotation_is_named(voc: Path) -> None:
    (voc / "Annotations" / "000025.xml").unlink()
    sizes = np.array([[48, 64]] * 2)
    with pytest.raises(InputError, match=r"The image '000025' has no annotation '.*000025.xml'; add it, or take"):
        read_annotations(voc, ["JPEGImages/000024.jpg", "JPEGImages/000025.jpg"], sizes)


def test_annotation_that_no_list_names_is_not_looked_at(voc: Path) -> None:
    (voc / "Annotations" / "999999.xml").write_text("broken")
    paths = open_source(voc, "trainval").listing().paths
    assert len(read_annotations(voc, paths, np.array([[48, 64]] * len(paths)))) == 24


def test_another_layout_is_told_what_is_missing(voc: Path) -> None:
    check_voc(voc)
    (voc / "Annotations").rename(voc / "annotations")
    with pytest.raises(InputError, match="has no folder Annotations; give a dataset in VOC's layout: JPEGImages, Anno"):
        check_voc(voc)


def test_blood_cells_are_read_whole(blood_cells: Path) -> None:
    counts: Counter[str] = Counter()
    for split, images in (("trainval", 292), ("test", 72)):
        paths = open_source(blood_cells, split).listing().paths
        assert len(paths) == images
        for each in read_annotations(blood_cells, paths, np.array([[480, 640]] * images)):
            counts.update(each.classes)
    assert counts == {"RBC": 4155, "WBC": 372, "Platelets": 361}
