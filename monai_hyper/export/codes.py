"""What structures are in SNOMED CT, by their names, and the colours in which they are shown."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.sr.coding import Code


@dataclass(frozen=True)
class Coding:
    """Codes of one structure.

    Args:
        category: kind of structure (SegmentedPropertyCategory).
        type: what it is (SegmentedPropertyType).
        side: left or right, None where the name tells none.
        site: where a lesion lies, None where the name does not tell.
    """

    category: Code
    type: Code
    side: Code | None = None
    site: Code | None = None


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


ANATOMY = _sct("91723000", "Anatomical Structure")
TISSUE = _sct("85756007", "Tissue")
ABNORMAL = _sct("49755003", "Morphologically Abnormal Structure")
SUBSTANCE = _sct("91720002", "Body Substance")

LEFT, RIGHT = _sct("7771000", "Left"), _sct("24028007", "Right")

_SIDES = {"left": LEFT, "l": LEFT, "lt": LEFT, "right": RIGHT, "r": RIGHT, "rt": RIGHT}

_ORGANS = """
23451007  Adrenal gland        | adrenal, suprarenal gland
4958002   Amygdala             |
15825003  Aorta                |
66754008  Appendix             |
89837001  Bladder              | urinary bladder
272673000 Bone                 |
12738006  Brain                |
119238007 Brain Stem           | brainstem
76752008  Breast               |
955009    Bronchus             |
69105007  Carotid Artery       | carotid
11000004  Caudate Nucleus      | caudate
113305005 Cerebellum           |
51299004  Clavicle             | clavicula
71854001  Colon                |
32062004  Common carotid artery |
73634005  Common iliac artery  | iliac artery
5798000   Diaphragm            |
38848004  Duodenum             |
38266002  Entire body          | body, external
32849002  Esophagus            | oesophagus
81745001  Eye                  |
79652003  Eyeball              | eye globe
71341001  Femur                |
87342007  Fibula               |
28231008  Gallbladder          | gall bladder
14738005  Globus Pallidus      | pallidum
80891009  Heart                |
5366008   Hippocampus          |
85050009  Humerus              |
64131007  Inferior vena cava   | ivc
64033007  Kidney               |
14742008  Large intestine      | large bowel
4596009   Larynx               |
66720007  Lateral Ventricle    |
82471001  Left atrium          |
87878005  Left ventricle       |
78076003  Lens                 | eye lens
10200004  Liver                | hepar
39607008  Lung                 |
59441001  Lymph Node           |
91609006  Mandible             | mandibula
74135004  Meniscus             |
244453006 Optic chiasm         | chiasm
18234004  Optic nerve          |
15497006  Ovary                | ovaries
15776009  Pancreas             |
45289007  Parotid gland        | parotid
64234005  Patella              |
76848001  Pericardium          |
56329008  Pituitary            | pituitary gland, hypophysis
32764006  Portal vein          |
41216001  Prostate             | prostate gland
81040000  Pulmonary artery     |
122972007 Pulmonary vein       |
89278009  Putamen              |
34402009  Rectum               |
113197003 Rib                  |
73829009  Right atrium         |
53085002  Right ventricle      |
54735007  Sacrum               |
79601000  Scapula              |
64739004  Seminal Vesicle      |
89546000  Skull                |
30315005  Small intestine      | small bowel
2748008   Spinal cord          | myelon
421060004 Spine                | vertebral column
78961009  Spleen               |
56873002  Sternum              |
69695003  Stomach              |
54019009  Submandibular gland  | submandibular
48345005  Superior vena cava   | svc
40689003  Testis               | testes, testicle
42695009  Thalamus             |
9875009   Thymus               |
69748006  Thyroid              | thyroid gland
12611008  Tibia                |
21974007  Tongue               |
44567001  Trachea              |
87953007  Ureter               |
35039007  Uterus               |
51282000  Vertebra             | vertebrae
"""

_TISSUES = """
51114001  Artery               |
59820001  Blood Vessel         | vessel
309312004 Cartilage            |
55603005  Fat                  | adipose tissue
389081007 Gray Matter          | grey matter
71616004  Muscle               |
127954009 Skeletal muscle      |
39937001  Skin                 |
29092000  Vein                 |
389080008 White Matter         |
"""

_LESIONS = """
44132006  Abscess              |
367643001 Cyst                 |
79654002  Edema                | oedema
35566002  Hematoma             | haematoma
50960005  Hemorrhage           | haemorrhage, bleeding
52988006  Lesion               |
4147007   Mass                 |
128462008 Metastasis           | metastases, metastatic tumor
6574001   Necrosis             |
108369006 Neoplasm             | tumor, tumour, cancer, carcinoma, gtv
27925004  Nodule               |
396339007 Thrombus             |
"""

_SUBSTANCES = """
60046008  Pleural effusion     |
"""


def coding(name: str, codes: Mapping[str, Code] | None = None) -> Coding:
    """Codes of a structure by its name, in English and in any order of organ, side and lesion.

    Args:
        name: of a class.
        codes: what certain names mean, before all else.

    Returns:
        its codes; those of an anatomical structure in general where the name is unknown.

    Example:
        >>> found = coding("kidney_left_tumour")
        >>> found.type.meaning, found.side.meaning, found.site.meaning
        ('Neoplasm', 'Left', 'Kidney')
        >>> coding("class_1").type.meaning
        'Anatomical Structure'
    """
    words = [_singular(word) for word in re.findall(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*|\d+", name)]
    side = next((_SIDES[word] for word in words if word in _SIDES), None)
    plain = [word for word in words if word not in _SIDES]
    found = _TABLE.get(" ".join(words)) or _with_side(_TABLE.get(" ".join(plain)), side)
    if found is None:
        told = side if {"left", "right"} & set(words) else None  # "l" may be anything in a name that is not known
        found = _lesion(plain, side) or Coding(ANATOMY, ANATOMY, told)
    if codes and name in codes:
        category = found.category if found.type != ANATOMY else TISSUE if codes[name] == TISSUE else ANATOMY
        return Coding(category, codes[name], found.side, found.site)
    return found


def colour(index: int) -> tuple[int, int, int]:
    """RGB of the structure of this index, 0 to 255 each; distinct also to colour-blind readers up to the seventh.

    The first are those of Okabe and Ito, https://jfly.uni-koeln.de/color; further ones go around the circle of hues.

    Example:
        >>> colour(0)
        (230, 159, 0)
    """
    if index < len(_PALETTE):
        return _PALETTE[index]
    turn = index - len(_PALETTE)
    red, green, blue = colorsys.hsv_to_rgb(turn * 0.618034 % 1, 0.55 + 0.2 * (turn % 3), 0.95 - 0.15 * (turn % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


_PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def _singular(word: str) -> str:
    word = word.lower()
    return word[:-1] if word.endswith("s") and word[:-1] in _LAST_WORDS else word


def _with_side(found: Coding | None, side: Code | None) -> Coding | None:
    return found and Coding(found.category, found.type, side)


def _lesion(words: list[str], side: Code | None) -> Coding | None:
    """A lesion within an organ: both words occur in the name."""
    for number, word in enumerate(words):
        lesion = _TABLE.get(word)
        if lesion is not None and lesion.category == ABNORMAL:
            others = words[:number] + words[number + 1 :]
            site = _TABLE.get(" ".join(each for each in others if each not in ("of", "in", "the")))
            return Coding(ABNORMAL, lesion.type, side, site.type if site and site.category != ABNORMAL else None)
    return None


def _table() -> dict[str, Coding]:
    found = {}
    lists = {_ORGANS: ANATOMY, _TISSUES: TISSUE, _LESIONS: ABNORMAL, _SUBSTANCES: SUBSTANCE}
    for text, category in lists.items():
        for line in text.strip().splitlines():
            named, _, synonyms = line.partition("|")
            value, meaning = named.strip().split(maxsplit=1)
            for name in (meaning, *synonyms.split(",")):
                if name.strip():
                    found[name.strip().lower()] = Coding(category, _sct(value, meaning))
    return found


_TABLE = _table()
_LAST_WORDS = {name.split()[-1] for name in _TABLE}
