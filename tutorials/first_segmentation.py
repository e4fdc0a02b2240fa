# %% [markdown]
# # First segmentation
# From two annotated volumes to the segmentation of a third, on the digital phantom: no download, under a minute.
#
#     python tutorials/first_segmentation.py --output runs/tutorial
#
# The cells also run one by one in Visual Studio Code, or in Jupyter with jupytext.

# %%
import argparse
from pathlib import Path

import torch
from monai.metrics import compute_dice

from monai_hyper import Segmenter, read_support
from monai_hyper.data.folder import list_cases
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.export.nifti import save_label
from monai_hyper.export.overview import overview
from monai_hyper.inference.pipeline import postprocess, preprocess
from monai_hyper.transforms.classes import SelectClasses

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, default=Path("runs/tutorial"))
output = parser.parse_known_args()[0].output

# %% [markdown]
# ## 1. Annotated volumes
# A head-like MR of four patients, with labels. Every patient lies in the scanner in another way: axes are permuted and
# flipped from file to file, as real ones are. Put your own volumes into the same layout, `images/` and `labels/`.

# %%
folder = write_phantom(output / "phantom", "head_mr", cases=4)
examples, queries = list_cases(folder, split="support"), list_cases(folder, split="query")
print("examples:", [case.name for case in examples], "queries:", [case.name for case in queries])

# %% [markdown]
# ## 2. The support set, and how volumes are prepared
# Grid, modality, intensities and classes are decided from the examples alone and kept in `plan`.

# %%
support, plan = read_support(folder, cases=examples, classes=["ventricles", "cerebellum"])
print(f"{support.shots} examples of {support.classes} on a grid of {plan.spacing} mm, {plan.modality}")

# %% [markdown]
# ## 3. Generate the network, segment
# One forward pass, no training. The result lies on the query's own grid, in the values of the label maps.

# %%
segmenter = Segmenter().fit(support, plan)
scan = read_image(queries[0].image)
label = segmenter.predict(scan)
save_label(label, output / "segmented.nii.gz", overwrite=True)

# %%
truth = read_label(queries[0].label)
channels = [torch.stack([(one == value)[0] for value in plan.values])[None].float() for one in (label, truth)]
scores = dict(zip(plan.classes, compute_dice(*channels)[0].tolist()))
print("Dice:", {name: round(score, 3) for name, score in scores.items()})

# %% [markdown]
# ## 4. Look at it
# Solid lines are the segmentation, dashed ones the truth. The picture wants classes numbered from 1 upward.

# %%
select = SelectClasses(plan.values)
print("picture:", overview(scan, select(label), plan.classes, output / "segmented.png", truth=select(truth)))

# %% [markdown]
# ## 5. Take the network with you
# What was generated is an ordinary network. As TorchScript it runs where only torch is installed, on images prepared as
# `plan` says.

# %%
network = segmenter.network_.materialise()
torch.jit.script(network).save(str(output / "network.pt"))

alone = torch.jit.load(str(output / "network.pt"))
with torch.no_grad():
    logits = alone(preprocess(scan, plan).as_tensor()[None])
again = postprocess(logits[0], plan, scan)
print("voxels that differ from step 3:", int((again != label).sum()))
