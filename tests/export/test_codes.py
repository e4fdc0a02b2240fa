"""Codes are those of SNOMED CT as DICOM lists them; names are understood however they are put."""

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.codedict import codes as dictionary

from monai_hyper.export import codes
from monai_hyper.export.codes import coding, colour


def known_meanings(value: str) -> set[str]:
    return {there[value][0].lower() for there in concepts["SCT"].values() if value in there}


def every_code() -> set:
    found = {codes.LEFT, codes.RIGHT}
    for each in codes._TABLE.values():
        found |= {each.category, each.type}
    return found


def test_no_code_is_invented():
    assert len(every_code()) > 90
    for code in every_code():
        assert code.scheme_designator == "SCT"
        assert code.meaning.lower() in known_meanings(code.value), code


@pytest.mark.parametrize(
    ("name", "kind", "side", "site"),
    [
        ("liver", "Liver", None, None),
        ("Liver", "Liver", None, None),
        ("left_kidney", "Kidney", "Left", None),
        ("Kidney R", "Kidney", "Right", None),
        ("LeftLung", "Lung", "Left", None),
        ("lungs", "Lung", None, None),
        ("urinary-bladder", "Bladder", None, None),
        ("left atrium", "Left atrium", None, None),
        ("spinal_cord", "Spinal cord", None, None),
        ("liver tumour", "Neoplasm", None, "Liver"),
        ("metastases in the left lung", "Metastasis", "Left", "Lung"),
        ("GTV_Mass_CT", "Neoplasm", None, None),
        ("vertebra L5", "Anatomical Structure", None, None),
        ("class_1", "Anatomical Structure", None, None),
        ("", "Anatomical Structure", None, None),
    ],
)
def test_names_tell_organ_side_and_lesion(name, kind, side, site):
    found = coding(name)
    assert found.type.meaning == kind
    assert (found.side and found.side.meaning, found.site and found.site.meaning) == (side, site)


def test_categories_fit_the_types():
    assert coding("spleen").category == codes.ANATOMY
    assert coding("fat").category == codes.TISSUE
    assert coding("cyst").category == codes.ABNORMAL
    assert coding("pleural effusion").category == codes.SUBSTANCE


def test_codes_that_are_given_come_first():
    vein = dictionary.SCT.HepaticVein
    assert coding("class_1", {"class_1": vein}).type == vein
    assert coding("left_kidney", {"left_kidney": vein}).side == codes.LEFT
    assert coding("liver", {"class_1": vein}).type.meaning == "Liver"


def test_colours_are_distinct():
    assert len({colour(index) for index in range(64)}) == 64
    assert all(0 <= value <= 255 for index in range(64) for value in colour(index))
