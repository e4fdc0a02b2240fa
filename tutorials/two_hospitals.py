# %% [markdown]
# # Two hospitals, two networks
# A network that one hospital made loses at another, whose scanner shows the same anatomy otherwise. With four annotated
# scans of its own, each hospital has a network of its own in less than a minute. Here on the digital phantom, in about
# two minutes; `docs/bundles.md` has the same on real scans.
#
#     python tutorials/two_hospitals.py --output runs/two_hospitals

# %%
import argparse
import shutil
from pathlib import Path

import nibabel
import numpy as np

from monai_hyper import Segmenter, read_support
from monai_hyper.data.folder import list_cases
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.evaluation.shifts import SHIFTS
from monai_hyper.export.overview import overview
from monai_hyper.transforms.classes import SelectClasses

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, default=Path("runs/two_hospitals"))
output = parser.parse_known_args()[0].output

# %% [markdown]
# ## 1. The same patients in two scanners
# South measures an eighth of k-space only, so its scans are blurred and ghosted. Put your own scans into the same
# layout.

# %%
SCANNERS = {"north": lambda image, seed: image, "south": SHIFTS["kspace-8x"]}
phantom = write_phantom(output / "phantom", "head_mr", cases=10)
for hospital, scanner in SCANNERS.items():
    shutil.copytree(phantom, output / hospital, dirs_exist_ok=True)
    for seed, case in enumerate(list_cases(output / hospital)):
        image = scanner(read_image(case.image), seed)
        nibabel.save(nibabel.Nifti1Image(image[0].numpy(), image.affine.numpy()), case.image)
cases = {hospital: list_cases(output / hospital) for hospital in SCANNERS}

# %% [markdown]
# ## 2. Each adapts to four local scans
# And one network for both, from two scans of either. `monai-hyper adapt --support FOLDER --output BUNDLE` does the same
# and writes the network as a MONAI bundle.

# %%
CLASSES = ["ventricles", "cerebellum"]
examples = {"north": cases["north"][:4], "south": cases["south"][4:8]}
examples["both"] = examples["north"][:2] + examples["south"][:2]
networks = {}
for name, annotated in examples.items():
    support, plan = read_support(phantom, cases=annotated, classes=CLASSES)
    networks[name] = Segmenter().fit(support, plan)
    print(f"{name}: {networks[name].fit_seconds_:.0f} s, expected Dice {networks[name].expected_dice_:.2f}")

# %% [markdown]
# ## 3. Every network at both hospitals
# On patients that nobody adapted to.

# %%
scores = {}
for hospital in SCANNERS:
    for case in cases[hospital][8:]:
        scan, truth = read_image(case.image), read_label(case.label)
        for name, network in networks.items():
            label = network.predict(scan)
            scores.setdefault((name, hospital), []).append(np.mean(dice_per_class(label, truth, network.plan_.values)))
            select = SelectClasses(network.plan_.values)
            picture = output / f"{name}_at_{hospital}.png"
            overview(scan, select(label), network.plan_.classes, picture, truth=select(truth))
table = {key: float(np.mean(found)) for key, found in scores.items()}
print(f"{'network of':>12}" + "".join(f"{'at ' + hospital:>12}" for hospital in SCANNERS))
for name in networks:
    print(f"{name:>12}" + "".join(f"{table[name, hospital]:12.3f}" for hospital in SCANNERS))
