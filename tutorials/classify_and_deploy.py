# %% [markdown]
# # Classify, and take the classifier with you
# From three images of each class to a classifier, and on to a MONAI bundle that runs without monai_hyper. On crops of
# the digital phantom: no download, under a minute.
#
#     python tutorials/classify_and_deploy.py --output runs/classify_and_deploy
#
# The cells also run one by one in Visual Studio Code, or in Jupyter with jupytext.

# %%
import argparse
import csv
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

from monai_hyper import FewShotClassifier
from monai_hyper.commands import adapt_classifier
from monai_hyper.data.phantom import CLASSES, phantom_case

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, default=Path("runs/classify_and_deploy"))
output = parser.parse_known_args()[0].output.resolve()

# %% [markdown]
# ## 1. A few images of each class
# Cubes of 48 mm of a head-like MR, around the ventricles or around the cerebellum. Three patients give the examples, a
# folder for each class, three others the queries; among these are cubes halfway between the two.

# %%
SIDE = 48.0


def crop(image: np.ndarray, middle: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """The cube around a voxel, where it lies in the scanner."""
    half = SIDE / 2 / np.linalg.norm(affine[:3, :3], axis=0)
    low = np.maximum(np.rint(middle - half), 0).astype(int)
    high = np.minimum(np.rint(middle + half).astype(int), image.shape)
    place = affine.copy()
    place[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    return nibabel.Nifti1Image(image[tuple(slice(a, b) for a, b in zip(low, high))], place)


for patient in range(6):
    image, label, affine = phantom_case("head_mr", patient)
    names = ("ventricles", "cerebellum")
    middles = {name: np.argwhere(label == CLASSES["head_mr"].index(name) + 1).mean(0) for name in names}
    if patient >= 3:
        middles["between"] = (middles["ventricles"] + middles["cerebellum"]) / 2
    for name, middle in middles.items():
        path = output / (f"examples/{name}/{patient}.nii.gz" if patient < 3 else f"queries/{name}_{patient}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(crop(image, middle, affine), path)

# %% [markdown]
# ## 2. Generate the classifier
# One forward pass, no training. What the examples say of each other, each left out in turn, tells what accuracy to
# expect, how far the probabilities may be believed, and from which one on an answer is given.

# %%
classifier = FewShotClassifier(reliable=0.9).fit(output / "examples")
print(f"{classifier.classes_}, generated in {classifier.fit_seconds_:.2f} s")
print(f"expected accuracy {classifier.expected_accuracy_:.2f}, least probability {classifier.threshold_:.2f}")

# %% [markdown]
# ## 3. Ask it, and let it abstain
# The class is empty where no probability is high enough: of the answers that are given, 90% shall be right. That helps
# where an image lies between the classes; what belongs to none of them may be given one all the same.

# %%
answers = {path.name: classifier.predict(path) for path in sorted((output / "queries").iterdir())}
for file, answer in answers.items():
    probabilities = ", ".join(f"{name} {p:.2f}" for name, p in answer.probabilities.items())
    print(f"{file:22} {answer.name or 'no answer':12} {probabilities}")

known = {file: answer for file, answer in answers.items() if not file.startswith("between")}
likely = {file: max(answer.probabilities, key=answer.probabilities.get) for file, answer in known.items()}
accuracy = np.mean([file.startswith(name) for file, name in likely.items()])
answered = sum(not answer.abstains for answer in known.values())
print(f"the most probable class is right in {accuracy:.0%}; {answered} of {len(known)} are answered")

# %% [markdown]
# ## 4. Write it as a bundle
# The classifier, the preparation of its images, its threshold, a model card, and where it came from: hashes of the
# examples, no names. The same as `monai-hyper adapt --classifier --support examples/ --output bundle/`.

# %%
bundle = output / "bundle"
if not bundle.exists():
    print(adapt_classifier(output / "examples", bundle, "Ventricles or cerebellum", onnx=False))

# %% [markdown]
# ## 5. Run it elsewhere
# As whoever receives the folder does, with MONAI's command line. It needs neither monai_hyper nor the examples.

# %%
configs = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
where = ["--dataset_dir", str(output / "queries"), "--output_dir", str(output / "results")]
subprocess.run([sys.executable, "-m", "monai.bundle", "run", *configs, *where], cwd=bundle, check=True)
with (output / "results" / "classes.csv").open(encoding="utf-8") as file:
    table = {row["query"]: row for row in csv.DictReader(file)}
same = sum(row["class"] == (answers[file].name or "") for file, row in table.items())
print(f"{same} of {len(answers)} answers are those of step 3")
